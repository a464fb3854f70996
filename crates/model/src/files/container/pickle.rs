//! Python's pickle format as far as `torch.save` uses it to describe tensors (pickle protocol 2 and the framing of 4; the opcodes are those of
//! CPython's `Lib/pickletools.py`). This is a reader of data: it knows a fixed list of opcodes and a fixed list of names, and what is on neither is
//! refused by name. Nothing is imported, called or run.

use std::collections::HashMap;

use safetensors::Dtype;

/// Why a pickle was not read.
#[derive(Debug, PartialEq)]
pub(super) enum Fault {
    /// The bytes are damaged.
    Damaged(String),
    /// The pickle wants something that describes no tensor.
    Refused(String),
}

/// A value's place in the [`Pickle`].
pub(super) type Id = usize;

/// A value of a pickle.
#[derive(Debug)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i64),
    /// A whole number beyond 64 bits, as its little-endian bytes.
    Long(Vec<u8>),
    Float,
    Text(String),
    Bytes,
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Known(Known),
    Storage(Storage),
    Tensor(Tensor),
}

/// The names that a pickle may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Known {
    OrderedDict,
    RebuildTensor,
    RebuildTensorV2,
    RebuildParameter,
    Size,
    Storage(Dtype),
}

/// A run of values that tensors are views of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Storage {
    /// Its name in the file.
    pub(super) key: String,
    pub(super) dtype: Dtype,
    /// Elements.
    pub(super) len: usize,
}

/// A view of a storage; all numbers in elements.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tensor {
    pub(super) storage: Storage,
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// A pickle that was read: all its values, and which of them is the whole.
#[derive(Debug)]
pub(super) struct Pickle {
    nodes: Vec<Node>,
    pub(super) root: Id,
    /// Bytes read, up to and with STOP.
    pub(super) end: usize,
}

/// Values that one pickle may have: a few for each tensor in sound ones.
const NODES: usize = 1 << 22;
/// Values that a pickle may have whatever its length.
const AT_ONCE: usize = 1 << 17;
/// Bytes of a storage's key, which are short numbers.
const KEY: usize = 256;

fn known(module: &str, name: &str) -> Option<Known> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Known::OrderedDict,
        ("torch._utils", "_rebuild_tensor") => Known::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v2") => Known::RebuildTensorV2,
        ("torch._utils", "_rebuild_parameter") => Known::RebuildParameter,
        ("torch", "Size") => Known::Size,
        ("torch", storage) => Known::Storage(match storage {
            "DoubleStorage" => Dtype::F64,
            "FloatStorage" => Dtype::F32,
            "HalfStorage" => Dtype::F16,
            "BFloat16Storage" => Dtype::BF16,
            "LongStorage" => Dtype::I64,
            "IntStorage" => Dtype::I32,
            "ShortStorage" => Dtype::I16,
            "CharStorage" => Dtype::I8,
            "ByteStorage" => Dtype::U8,
            "BoolStorage" => Dtype::BOOL,
            _ => return None,
        }),
        _ => return None,
    })
}

impl Pickle {
    /// Read the pickle that `bytes` begin with.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut reader =
            Reader { bytes, at: 0, nodes: Vec::new(), stack: Vec::new(), marks: Vec::new(), memo: HashMap::new(), copies: NODES };
        let root = reader.run()?;
        Ok(Self { nodes: reader.nodes, root, end: reader.at })
    }

    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }

    pub(super) fn text(&self, id: Id) -> Option<&str> {
        match self.node(id) {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// All storages that the pickle names, in its order.
    pub(super) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.nodes.iter().filter_map(|node| if let Node::Storage(storage) = node { Some(storage) } else { None })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    nodes: Vec<Node>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    /// Items that may still be copied: a short pickle could ask for copies of a long list without end.
    copies: usize,
}

impl<'a> Reader<'a> {
    fn damaged(&self, what: impl std::fmt::Display) -> Fault {
        Fault::Damaged(format!("{what} at byte {}", self.at))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], Fault> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let Some(end) = end else { return Err(self.damaged(format_args!("the pickle ends within a value of {n} bytes"))) };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        let b = self.take(4)?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self) -> Result<usize, Fault> {
        let b = self.take(8)?;
        let n = u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
        usize::try_from(n).map_err(|_| self.damaged("a length beyond all memory"))
    }

    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.iter().take(1000).position(|b| *b == b'\n') else { return Err(self.damaged("a name without its end")) };
        let line = std::str::from_utf8(&rest[..end]).map_err(|_| self.damaged("a name that is not UTF-8"))?;
        self.at += end + 1;
        Ok(line)
    }

    fn text_of(&mut self, n: usize) -> Result<(), Fault> {
        let bytes = self.take(n)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.damaged("a text that is not UTF-8"))?.to_owned();
        self.push(Node::Text(text))
    }

    fn push(&mut self, node: Node) -> Result<(), Fault> {
        // A value takes some hundred bytes here; sound pickles of tensors write ten and more for each.
        let most = NODES.min(AT_ONCE + self.at / 8);
        if self.nodes.len() >= most {
            return Err(self.damaged(format_args!("more than {most} values")));
        }
        self.nodes.push(node);
        self.stack.push(self.nodes.len() - 1);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.damaged("the stack is empty"));
        }
        self.stack.pop().ok_or_else(|| self.damaged("the stack is empty"))
    }

    /// What stands above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>, Fault> {
        let mark = self.marks.pop().ok_or_else(|| self.damaged("no mark on the stack"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn top(&self) -> Result<Id, Fault> {
        self.stack.last().copied().ok_or_else(|| self.damaged("the stack is empty"))
    }

    fn remember(&mut self, place: u32) -> Result<(), Fault> {
        let id = self.top()?;
        if self.memo.len() >= NODES {
            return Err(self.damaged(format_args!("more than {NODES} remembered values")));
        }
        self.memo.insert(place, id);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), Fault> {
        let id = *self.memo.get(&place).ok_or_else(|| self.damaged(format_args!("value {place} is asked for and was never remembered")))?;
        if self.stack.len() >= NODES {
            return Err(self.damaged(format_args!("more than {NODES} values on the stack")));
        }
        self.stack.push(id);
        Ok(())
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<(), Fault> {
        let list = self.top()?;
        match &mut self.nodes[list] {
            Node::List(values) => values.extend(items),
            _ => return Err(self.damaged("items for what is no list")),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Id]) -> Result<(), Fault> {
        let dict = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.nodes[dict] {
            Node::Dict(entries) if rest.is_empty() => entries.extend(pairs.iter().map(|[k, v]| (*k, *v))),
            _ => return Err(self.damaged("keys and values for what is no dictionary")),
        }
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), Fault> {
        let known = known(module, name).ok_or_else(|| Fault::Refused(format!("{module}.{name}")))?;
        self.push(Node::Known(known))
    }

    fn run(&mut self) -> Result<Id, Fault> {
        loop {
            let op = self.byte()?;
            match op {
                // PROTO, FRAME: how it was written
                0x80 => match self.byte()? {
                    2..=5 => {}
                    other => return Err(self.damaged(format_args!("pickle protocol {other}, where torch.save writes 2"))),
                },
                0x95 => drop(self.u64()?),
                b'.' => return self.pop(),
                b'(' => {
                    if self.marks.len() >= NODES {
                        return Err(self.damaged("too many marks"));
                    }
                    self.marks.push(self.stack.len());
                }
                b'0' => drop(self.pop()?),
                // numbers and texts
                b'N' => self.push(Node::None)?,
                0x88 => self.push(Node::Bool(true))?,
                0x89 => self.push(Node::Bool(false))?,
                b'K' => {
                    let n = self.byte()?;
                    self.push(Node::Int(n.into()))?;
                }
                b'M' => {
                    let b = self.take(2)?;
                    self.push(Node::Int(u16::from_le_bytes([b[0], b[1]]).into()))?;
                }
                b'J' => {
                    let n = self.u32()?;
                    self.push(Node::Int((n as i32).into()))?;
                }
                0x8a => {
                    let n = self.byte()?;
                    let bytes = self.take(n.into())?;
                    self.push(long(bytes))?;
                }
                b'G' => {
                    self.take(8)?;
                    self.push(Node::Float)?;
                }
                b'X' | b'T' => {
                    let n = self.u32()?;
                    self.text_of(n as usize)?;
                }
                0x8c | b'U' => {
                    let n = self.byte()?;
                    self.text_of(n.into())?;
                }
                0x8d => {
                    let n = self.u64()?;
                    self.text_of(n)?;
                }
                b'C' => {
                    let n = self.byte()?;
                    self.take(n.into())?;
                    self.push(Node::Bytes)?;
                }
                b'B' => {
                    let n = self.u32()?;
                    self.take(n as usize)?;
                    self.push(Node::Bytes)?;
                }
                // containers
                b')' => self.push(Node::Tuple(vec![]))?,
                b']' => self.push(Node::List(vec![]))?,
                b'}' => self.push(Node::Dict(vec![]))?,
                b't' => {
                    let items = self.pop_mark()?;
                    self.push(Node::Tuple(items))?;
                }
                b'l' => {
                    let items = self.pop_mark()?;
                    self.push(Node::List(items))?;
                }
                b'd' => {
                    let items = self.pop_mark()?;
                    self.push(Node::Dict(vec![]))?;
                    self.set(&items)?;
                }
                0x85..=0x87 => {
                    let mut items = Vec::new();
                    for _ in 0..=op - 0x85 {
                        items.push(self.pop()?);
                    }
                    items.reverse();
                    self.push(Node::Tuple(items))?;
                }
                b'a' => {
                    let item = self.pop()?;
                    self.extend(vec![item])?;
                }
                b'e' => {
                    let items = self.pop_mark()?;
                    self.extend(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set(&items)?;
                }
                // what was remembered
                b'q' => {
                    let place = self.byte()?;
                    self.remember(place.into())?;
                }
                b'r' => {
                    let place = self.u32()?;
                    self.remember(place)?;
                }
                0x94 => {
                    let place = u32::try_from(self.memo.len()).map_err(|_| self.damaged("too many remembered values"))?;
                    self.remember(place)?;
                }
                b'h' => {
                    let place = self.byte()?;
                    self.recall(place.into())?;
                }
                b'j' => {
                    let place = self.u32()?;
                    self.recall(place)?;
                }
                // names, and what they make of their arguments
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Node::Text(module), Node::Text(name)) = (&self.nodes[module], &self.nodes[name]) else {
                        return Err(self.damaged("a name that is no text"));
                    };
                    let (module, name) = (module.clone(), name.clone());
                    self.global(&module, &name)?;
                }
                b'R' => self.reduce()?,
                b'Q' => self.storage()?,
                // The attributes of a dictionary (`_metadata`): versions of modules, of no use here.
                b'b' => {
                    self.pop()?;
                    let object = self.top()?;
                    if !matches!(self.nodes[object], Node::Dict(_)) {
                        return Err(Fault::Refused("an object with a state of its own".into()));
                    }
                }
                other => return Err(Fault::Refused(format!("opcode 0x{other:02x} ({:?}) at byte {}", char::from(other), self.at - 1))),
            }
        }
    }

    fn size(&self, id: Id) -> Result<usize, Fault> {
        match self.nodes[id] {
            Node::Int(n) if n >= 0 => usize::try_from(n).map_err(|_| self.damaged("a size beyond all memory")),
            _ => Err(self.damaged("a size that is no whole number of at least 0")),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>, Fault> {
        let (Node::Tuple(items) | Node::List(items)) = &self.nodes[id] else { return Err(self.damaged("a shape that is no tuple")) };
        if items.len() > 16 {
            return Err(self.damaged(format_args!("a tensor of {} dimensions", items.len())));
        }
        items.iter().map(|&item| self.size(item)).collect()
    }

    /// REDUCE: the known name is asked for what it says, not called.
    fn reduce(&mut self) -> Result<(), Fault> {
        let (arguments, callee) = (self.pop()?, self.pop()?);
        let Node::Tuple(arguments) = &self.nodes[arguments] else { return Err(self.damaged("arguments that are no tuple")) };
        let Node::Known(callee) = self.nodes[callee] else { return Err(Fault::Refused("a call of what is no known name".into())) };
        let copied: usize =
            arguments.iter().map(|id| if let Node::Tuple(items) | Node::List(items) = &self.nodes[*id] { items.len() } else { 1 }).sum();
        let copies = self.copies.checked_sub(copied).ok_or_else(|| self.damaged(format_args!("more than {NODES} copied values")))?;
        let node = match (callee, arguments.as_slice()) {
            (Known::OrderedDict, []) => Node::Dict(vec![]),
            (Known::OrderedDict, [pairs]) => {
                let Node::List(pairs) = &self.nodes[*pairs] else { return Err(self.damaged("a dictionary of what is no list of pairs")) };
                let pair = |id: &Id| match &self.nodes[*id] {
                    Node::Tuple(pair) | Node::List(pair) if pair.len() == 2 => Ok((pair[0], pair[1])),
                    _ => Err(self.damaged("a dictionary's entry that is no pair")),
                };
                Node::Dict(pairs.iter().map(pair).collect::<Result<_, _>>()?)
            }
            (Known::Size, [sizes]) => Node::Tuple(match &self.nodes[*sizes] {
                Node::Tuple(items) | Node::List(items) => items.clone(),
                _ => return Err(self.damaged("a shape that is no tuple")),
            }),
            (Known::RebuildTensor | Known::RebuildTensorV2, [storage, offset, shape, strides, ..]) => {
                let Node::Storage(storage) = &self.nodes[*storage] else { return Err(self.damaged("a tensor without a storage")) };
                let (shape, strides) = (self.sizes(*shape)?, self.sizes(*strides)?);
                if shape.len() != strides.len() {
                    return Err(self.damaged("a tensor whose shape and strides differ in length"));
                }
                Node::Tensor(Tensor { storage: storage.clone(), offset: self.size(*offset)?, shape, strides })
            }
            (Known::RebuildParameter, [tensor, ..]) => {
                let Node::Tensor(tensor) = &self.nodes[*tensor] else { return Err(self.damaged("a parameter without a tensor")) };
                Node::Tensor(tensor.clone())
            }
            _ => return Err(self.damaged(format_args!("{callee:?} with {} arguments", arguments.len()))),
        };
        self.copies = copies;
        self.push(node)
    }

    /// BINPERSID: ('storage', class, key, device, elements[, None]).
    fn storage(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let Node::Tuple(parts) = &self.nodes[id] else { return Err(self.damaged("a storage that is no tuple")) };
        let [kind, class, key, _, len, view @ ..] = parts.as_slice() else { return Err(self.damaged("a storage of too few parts")) };
        let (Node::Text(kind), Node::Known(Known::Storage(dtype)), Node::Text(key)) =
            (&self.nodes[*kind], &self.nodes[*class], &self.nodes[*key])
        else {
            return Err(self.damaged("a storage without its class and key"));
        };
        if key.len() > KEY {
            return Err(self.damaged(format_args!("a storage's key of {} bytes", key.len())));
        }
        if kind != "storage" || !view.iter().all(|id| matches!(self.nodes[*id], Node::None)) {
            return Err(self.damaged(format_args!("a persistent \"{}\"", kind.chars().take(40).collect::<String>())));
        }
        let storage = Storage { key: key.clone(), dtype: *dtype, len: self.size(*len)? };
        self.push(Node::Storage(storage))
    }
}

/// A whole number in two's complement, little-endian.
fn long(bytes: &[u8]) -> Node {
    if bytes.len() > 8 {
        return Node::Long(bytes.to_vec());
    }
    let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
    let mut wide = [if negative { 0xff } else { 0 }; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Node::Int(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `pickle.dumps(os.system)`-like attacks look like, by hand: each is refused by name, none is run.
    #[test]
    fn programs_are_refused_by_name() {
        let cases: [(&[u8], &str); 8] = [
            (b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.", "os.system"),
            (b"\x80\x02cposix\nsystem\n.", "posix.system"),
            (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "builtins.eval"),
            (b"\x80\x02c__builtin__\neval\n.", "__builtin__.eval"),
            (b"\x80\x02ctorch\nload\n.", "torch.load"),
            (b"\x80\x02(ios\nsystem\n.", "opcode 0x69"),
            (b"\x80\x02ccollections\nOrderedDict\n)R}\x85}b.", "state of its own"),
            (b"\x80\x02}(X\x01\x00\x00\x00aK\x01ub.", "state of its own"),
        ];
        for (bytes, said) in cases {
            let fault = Pickle::read(bytes).map(|_| ()).unwrap_err();
            match &fault {
                Fault::Refused(what) => assert!(what.contains(said), "{said}: {what}"),
                Fault::Damaged(what) => assert!(said == "state of its own" && !what.is_empty(), "{said}: {what}"),
            }
        }
    }

    #[test]
    fn damage_is_an_error() {
        let cases: [&[u8]; 16] = [
            b"",
            b".",
            b"\x80\x09N.",
            b"\x80\x02N",
            b"\x80\x02X\xff\xff\xff\xffab.",
            b"\x80\x02X\x02\x00\x00\x00\xff\xfe.",
            b"\x80\x02h\x07.",
            b"\x80\x02t.",
            b"\x80\x02a.",
            b"\x80\x02K\x01K\x02s.",
            b"\x80\x02}(K\x01u.",
            b"\x80\x02K\x01\x86.",
            b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff.",
            b"\x80\x02ctorch\nFloatStorage",
            b"\x80\x02X\x07\x00\x00\x00storageQ.",
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nNK\x00))\x89Nt\x85R.",
        ];
        for bytes in cases {
            assert!(matches!(Pickle::read(bytes), Err(Fault::Damaged(_))), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn numbers_and_dictionaries() {
        let pickle = Pickle::read(b"\x80\x02}q\x00(X\x01\x00\x00\x00aJ\xff\xff\xff\xffX\x01\x00\x00\x00b\x8a\x02\x00\x80u.rest").unwrap();
        let Node::Dict(entries) = pickle.node(pickle.root) else { panic!("no dictionary") };
        let value = |i: usize| if let Node::Int(n) = pickle.node(entries[i].1) { *n } else { panic!("no number") };
        assert_eq!((pickle.text(entries[0].0), value(0), value(1)), (Some("a"), -1, -32768));
        assert_eq!(
            &b"rest"[..],
            &b"\x80\x02}q\x00(X\x01\x00\x00\x00aJ\xff\xff\xff\xffX\x01\x00\x00\x00b\x8a\x02\x00\x80u.rest"[pickle.end..]
        );
    }
}
