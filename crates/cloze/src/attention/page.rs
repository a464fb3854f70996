//! The attention of some texts as one HTML file that loads nothing from elsewhere.
//!
//! The page carries q and k of every head, and the bias of its scores; products, scaled scores and softmax are computed in the browser by the formulas that it shows.
//! Its drawings are those of the playground: `web/` builds `assets/attention.html`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use cloze_tensor::ops::attention::Visibility;
use serde::Serialize;
use serde_json::{Value, json};

use super::{Ablation, Attention};

/// One text of a page.
pub struct Shown<'a> {
    /// The text.
    pub text: &'a str,
    /// What its attentions got.
    pub attention: &'a Attention,
    /// What the model answers without some of its heads, where it was tried.
    pub ablation: Option<&'a Ablation>,
}

/// The built page, with one place for the data.
const PAGE: &str = include_str!("../../assets/attention.html");
/// Where the data goes.
const PLACE: &str = "__ATTENTION__";

/// A layer as the page reads it.
#[derive(Serialize)]
struct Layer {
    heads: usize,
    scale: f64,
    /// Keys to either side that a query sees; absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    causal: bool,
    /// Base64 of little-endian f32. // `[N, T, D]`
    q: String,
    k: String,
    /// The bias by distance, from −(T − 1) to T − 1; absent where there is none. // `[N, 2T − 1]`
    #[serde(skip_serializing_if = "String::is_empty")]
    bias: String,
}

/// The page for a model's texts.
pub fn page(model: &str, texts: &[Shown]) -> String {
    let texts: Vec<Value> = texts.iter().map(text).collect();
    // Inside a script element only `<` could end it.
    let data = json!({"model": model, "texts": texts}).to_string().replace('<', "\\u003c");
    PAGE.replacen(PLACE, &data, 1)
}

fn text(shown: &Shown) -> Value {
    let seen = shown.attention;
    let layers: Vec<Layer> = (0..seen.layers()).filter_map(|l| layer(seen, l)).collect();
    json!({"text": shown.text, "tokens": seen.tokens, "layers": layers, "ablation": shown.ablation})
}

fn layer(seen: &Attention, at: usize) -> Option<Layer> {
    let (visibility, scale) = seen.rules(at)?;
    let (mut q, mut k, mut bias) = (Vec::new(), Vec::new(), Vec::new());
    let bytes = |&x: &f64| (x as f32).to_le_bytes();
    for head in (0..seen.heads(at)).filter_map(|h| seen.head(at, h)) {
        q.extend(head.q.iter().flatten().flat_map(bytes));
        k.extend(head.k.iter().flatten().flat_map(bytes));
        bias.extend(head.bias.iter().flat_map(bytes));
    }
    let window = match visibility {
        Visibility::Window(w) => Some(w),
        Visibility::All | Visibility::Causal => None,
    };
    let causal = visibility == Visibility::Causal;
    let [q, k, bias] = [q, k, bias].map(|bytes| BASE64_STANDARD.encode(bytes));
    Some(Layer { heads: seen.heads(at), scale, window, causal, q, k, bias })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_loads_nothing() {
        assert_eq!(PAGE.matches(PLACE).count(), 1);
        assert!(
            !PAGE.contains("src=") && !PAGE.contains("http:")
                || PAGE.matches("http://").count() == PAGE.matches("http://www.w3.org/").count()
        );
        assert!(!PAGE.contains("https://") && PAGE.contains("default-src 'none'"));
        let seen = Attention { tokens: vec!["</script>".into()], layers: Vec::new() };
        let page = page("m", &[Shown { text: "</script><b>", attention: &seen, ablation: None }]);
        assert!(page.contains("\\u003c/script>\\u003cb>") && !page.contains("</script><b>"));
    }
}
