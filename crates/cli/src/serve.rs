//! `cloze serve`: a model folder as an HTTP server.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cloze::train::memory::Memory;
use cloze::train::run::Precision;
use cloze_serve::{App, Engine, LogFormat, Models, PipelineEngine, Server, Settings};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::options::{Options, print_line};

/// Every option is also read from the environment variable that stands beside it, and from a configuration file: there its key is its name
/// with _ for -, such as max_batch_tokens = 8192. A flag overrides a variable, a variable the file.
///
/// SIGTERM and SIGINT end the server: readiness says 503, no more connections are taken, every accepted request is answered. SIGHUP loads
/// the models anew while requests go on.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A TOML file of options; keys that are no options are refused
    #[arg(long, value_name = "FILE", env = "CLOZE_CONFIG")]
    config: Option<PathBuf>,
    /// A model's folder or an adapter's, or name=folder; repeat it for several models, the first answers requests that name none.
    /// Models with the same encoder (adapters over one base, heads on one frozen encoder) keep it once
    #[arg(long = "model", required_unless_present = "config", value_name = "[NAME=]DIR", env = "CLOZE_MODEL", value_delimiter = ';')]
    models: Vec<String>,
    /// The address to listen on; 0.0.0.0 for all
    #[arg(long, default_value = "127.0.0.1", env = "CLOZE_HOST")]
    host: IpAddr,
    /// The port to listen on; 0 for any that is free
    #[arg(long, short, default_value_t = 3000, env = "CLOZE_PORT")]
    port: u16,
    /// Compute in auto, f32 or bf16
    #[arg(long, default_value = "f32", env = "CLOZE_PRECISION", value_parser = crate::predict::parse_precision)]
    precision: Precision,
    /// The longest input in tokens; the model's own limit by default
    #[arg(long, env = "CLOZE_MAX_LENGTH")]
    max_length: Option<usize>,
    /// Requests that may be under way at once; more are answered 429
    #[arg(long, default_value_t = 512, env = "CLOZE_MAX_CONCURRENT_REQUESTS")]
    max_concurrent_requests: usize,
    /// Tokens of one packed batch
    #[arg(long, default_value_t = 16384, env = "CLOZE_MAX_BATCH_TOKENS")]
    max_batch_tokens: usize,
    /// Tokens that may wait in the queue; requests beyond are answered 429
    #[arg(long, default_value_t = 524_288, env = "CLOZE_MAX_QUEUE_TOKENS")]
    max_queue_tokens: usize,
    /// Inputs of one request
    #[arg(long, default_value_t = 32, env = "CLOZE_MAX_CLIENT_BATCH_SIZE")]
    max_client_batch_size: usize,
    /// Bytes of one request's body
    #[arg(long, default_value_t = 2_000_000, env = "CLOZE_PAYLOAD_LIMIT")]
    payload_limit: usize,
    /// Cut inputs that are too long where a request does not say
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", env = "CLOZE_AUTO_TRUNCATE")]
    auto_truncate: bool,
    /// Threads that cut text into tokens
    #[arg(long, default_value_t = 2, env = "CLOZE_TOKENIZATION_WORKERS")]
    tokenization_workers: usize,
    /// Milliseconds that one batch should take at most, so that short requests do not wait for long ones; 0: no such bound
    #[arg(long, default_value_t = 100, env = "CLOZE_BATCH_TARGET_MS")]
    batch_target_ms: u64,
    /// A key that requests must carry; repeat it for several
    #[arg(long = "api-key", value_name = "KEY", env = "CLOZE_API_KEY", hide_env_values = true, value_delimiter = ',')]
    api_keys: Vec<String>,
    /// A file of keys, one a line, so that they do not stand in the list of processes
    #[arg(long, value_name = "FILE", env = "CLOZE_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// An origin whose pages may call this server; repeat it for several, * for all
    #[arg(long, value_name = "ORIGIN", env = "CLOZE_CORS_ALLOW_ORIGIN", value_delimiter = ',')]
    cors_allow_origin: Vec<String>,
    /// Open connections; more wait to be accepted
    #[arg(long, default_value_t = 4096, env = "CLOZE_MAX_CONNECTIONS")]
    max_connections: usize,
    /// Seconds for the head of a request, and for an idle connection
    #[arg(long, default_value_t = 10, env = "CLOZE_HEADER_TIMEOUT")]
    header_timeout: u64,
    /// Seconds for the body of a request, and for a client to take the next part of its answer
    #[arg(long, default_value_t = 30, env = "CLOZE_BODY_TIMEOUT")]
    body_timeout: u64,
    /// Seconds that a request may take: to become tokens, to wait and to be computed
    #[arg(long, default_value_t = 60, env = "CLOZE_REQUEST_TIMEOUT")]
    request_timeout: u64,
    /// Milliseconds between readiness saying 503 and connections being refused, at the end
    #[arg(long, default_value_t = 500, env = "CLOZE_SHUTDOWN_DELAY_MS")]
    shutdown_delay_ms: u64,
    /// Seconds for accepted requests to be answered, at the end
    #[arg(long, default_value_t = 30, env = "CLOZE_SHUTDOWN_DEADLINE")]
    shutdown_deadline: u64,
    /// What is logged of each request on standard error: json, text or off
    #[arg(long, default_value = "text", env = "CLOZE_LOG")]
    log: LogFormat,
    /// Do not serve the playground page
    #[arg(long, env = "CLOZE_NO_PLAYGROUND")]
    no_playground: bool,
    /// A folder of training runs, whose curves the page then shows
    #[arg(long, value_name = "DIR", env = "CLOZE_RUNS")]
    runs: Option<PathBuf>,
    /// Send OpenTelemetry traces to this collector, as http://HOST:PORT (a build with the feature otlp)
    #[arg(long, value_name = "URL", env = "CLOZE_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
}

pub(crate) fn run(args: Args, options: &Options) -> anyhow::Result<u8> {
    if let Some(path) = &args.config {
        options.say(format!("options from {}", path.display()));
    }
    let mut api_keys = args.api_keys;
    if let Some(path) = &args.api_key_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}: cannot read", path.display()))?;
        api_keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        anyhow::ensure!(!api_keys.is_empty(), "{}: holds no key; write one a line", path.display());
    }
    let settings = Settings {
        max_concurrent_requests: args.max_concurrent_requests,
        max_batch_tokens: args.max_batch_tokens,
        max_queue_tokens: args.max_queue_tokens,
        max_client_batch_size: args.max_client_batch_size,
        payload_limit: args.payload_limit,
        auto_truncate: args.auto_truncate,
        tokenization_workers: args.tokenization_workers,
        batch_target: Duration::from_millis(args.batch_target_ms),
        api_keys,
        cors_allow_origin: args.cors_allow_origin,
        max_connections: args.max_connections,
        header_timeout: Duration::from_secs(args.header_timeout),
        body_timeout: Duration::from_secs(args.body_timeout),
        request_timeout: Duration::from_secs(args.request_timeout),
        shutdown_delay: Duration::from_millis(args.shutdown_delay_ms),
        shutdown_deadline: Duration::from_secs(args.shutdown_deadline),
        log: if options.quiet { LogFormat::Off } else { args.log },
        playground: !args.no_playground,
        runs: args.runs,
        otlp_endpoint: args.otlp_endpoint,
        ..Settings::default()
    };
    // One device for the life of the process: models come and go on it.
    let device: &'static cloze::Device = Box::leak(Box::new(options.open()?));
    let (precision, max_length) = (args.precision, args.max_length);
    let encoders = cloze::Encoders::default();
    let load = move |folder: &std::path::Path| -> Result<Arc<dyn Engine>, cloze::Error> {
        Ok(Arc::new(PipelineEngine::load_shared(device, folder, precision, max_length, &encoders)?))
    };
    let models = Models::load(args.models.iter().map(|text| named(text)).collect(), Box::new(load))?;
    let all = models.all();
    for (i, served) in all.iter().enumerate() {
        let card = served.engine.card();
        let size = card.parameters as f64 / 1e6;
        let longest = served.engine.context().max_length;
        let same = all[..i].iter().find(|other| other.engine.encoder().is_some() && other.engine.encoder() == served.engine.encoder());
        let shared = same.map_or(String::new(), |other| format!(", encoder shared with {}", other.name));
        options.say(format!("{}: {}, {size:.1} M parameters, {}, up to {longest} tokens{shared}", served.name, card.family, card.dtype));
    }
    if let Some(memory) = Memory::now() {
        options.say(format!("{:.0} MB of memory in use", memory.resident_mb()));
    }
    let app = App::new(settings, models)?;
    let server = Server::start(Arc::clone(&app), SocketAddr::new(args.host, args.port))?;
    let address = server.address();
    options.say(format!("{}; routes are listed at http://{address}/docs", device.name()));
    print_line(format_args!("listening on http://{address}"))?;

    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot watch for signals")?;
    let stopper = server.stopper();
    let options = options.clone();
    // Loading takes its time, and a signal to end must not wait for it. One request to load that waits stands for all that come meanwhile.
    let (reload, reloads) = std::sync::mpsc::sync_channel::<()>(1);
    let loading = options.clone();
    let load = move || {
        for () in reloads {
            for served in app.models().all() {
                match app.models().reload(&served.name) {
                    Ok(_) => loading.say(format!("{}: loaded anew", served.name)),
                    Err(e) => loading.say(format!("{}: {e}", served.name)),
                }
            }
        }
    };
    std::thread::Builder::new().name("cloze-reload".into()).spawn(load).context("cannot start a thread")?;
    let watch = move || {
        let mut ending = false;
        for signal in signals.forever() {
            match signal {
                SIGHUP => drop(reload.try_send(())), // one that waits already is enough
                _ if ending => std::process::exit(128 + signal),
                _ => {
                    ending = true;
                    options.say("ending: answering what was accepted; once more to end at once");
                    stopper.stop();
                }
            }
        }
    };
    std::thread::Builder::new().name("cloze-signals".into()).spawn(watch).context("cannot start a thread")?;
    server.join()?;
    Ok(0)
}

/// `name=folder`, or a folder that is called by its own name.
fn named(text: &str) -> (String, PathBuf) {
    if let Some((name, folder)) = text.split_once('=')
        && !name.is_empty()
        && !name.contains('/')
    {
        return (name.to_owned(), folder.into());
    }
    let folder = PathBuf::from(text);
    let own = folder.canonicalize().ok().and_then(|f| f.file_name().map(|n| n.to_string_lossy().into_owned()));
    (own.unwrap_or_else(|| text.to_owned()), folder)
}

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn models_are_named_by_hand_or_by_their_folder() {
        assert_eq!(named("zh=runs/a=b"), ("zh".into(), "runs/a=b".into()));
        assert_eq!(named("runs/a=b").1, std::path::PathBuf::from("runs/a=b"));
        assert_eq!(named("not-there").0, "not-there");
    }
}
