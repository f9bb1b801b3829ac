//! The stack machine that a pickle is a program for.

use std::collections::HashMap;

use super::value::{Id, Pickle, Value};

/// Values of the largest pickle that is read: a value takes far more memory than the byte that may make it.
const MAX_VALUES: usize = 1 << 22;

/// What is wrong with a pickle, and where.
#[derive(Debug)]
pub(in crate::codecs) struct Fault {
    pub offset: usize,
    pub kind: Kind,
}

/// The kinds of [`Fault`].
#[derive(Debug)]
pub(in crate::codecs) enum Kind {
    /// It asks to call this.
    Code(String),
    /// It is no pickle, or a damaged one.
    Damaged { expected: &'static str, got: String },
}

/// Reads a pickle of protocol 2 or newer. `bytes` may hold more than the pickle, which ends itself.
///
/// Every operation makes at most one value, of which there is a limit, and no text is longer than the bytes that are there, so
/// memory is bounded by the file's size.
pub(in crate::codecs) fn parse(bytes: &[u8]) -> Result<Pickle, Fault> {
    parse_first(bytes).map(|(pickle, _)| pickle)
}

/// The same, and the bytes of the pickle.
pub(in crate::codecs) fn parse_first(bytes: &[u8]) -> Result<(Pickle, usize), Fault> {
    let mut machine = Machine {
        bytes,
        at: 0,
        op_at: 0,
        values: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    while machine.step()? {}
    let root = machine.pop()?;
    Ok((Pickle { values: machine.values, root }, machine.at))
}

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    /// Where the operation at hand begins.
    op_at: usize,
    pub(super) values: Vec<Value>,
    stack: Vec<Id>,
    /// Lengths of the stack at each open mark.
    marks: Vec<usize>,
    memo: HashMap<usize, Id>,
}

impl<'a> Machine<'a> {
    /// One operation; false at the end.
    fn step(&mut self) -> Result<bool, Fault> {
        self.op_at = self.at;
        if self.values.len() >= MAX_VALUES {
            return Err(self.damaged("4,194,304 values at most", "more"));
        }
        let op = self.byte()?;
        match op {
            // PROTO, FRAME: nothing that has to be known.
            0x80 => drop(self.byte()?),
            0x95 => drop(self.take(8)?),
            b'.' => return Ok(false),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'(' => self.marks.push(self.stack.len()),
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let value = i32::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            b'K' => {
                let value = self.byte()?;
                self.push(Value::Int(value.into()));
            }
            b'M' => {
                let value = u16::from_le_bytes(self.array()?);
                self.push(Value::Int(value.into()));
            }
            b'G' => {
                let value = f64::from_be_bytes(self.array()?);
                self.push(Value::Float(value));
            }
            0x8a => {
                let len = self.byte()?.into();
                self.long(len)?;
            }
            0x8b => {
                let len = self.len4()?;
                self.long(len)?;
            }
            b'X' => {
                let len = self.len4()?;
                self.text(len)?;
            }
            0x8c => {
                let len = self.byte()?.into();
                self.text(len)?;
            }
            0x8d => {
                let len = self.len8()?;
                self.text(len)?;
            }
            b'T' | b'B' => {
                let len = self.len4()?;
                self.raw(len)?;
            }
            b'U' | b'C' => {
                let len = self.byte()?.into();
                self.raw(len)?;
            }
            0x8e | 0x96 => {
                let len = self.len8()?;
                self.raw(len)?;
            }
            b'q' => {
                let slot = self.byte()?.into();
                self.put(slot)?;
            }
            b'r' => {
                let slot = self.len4()?;
                self.put(slot)?;
            }
            0x94 => self.put(self.memo.len())?,
            b'h' => {
                let slot = self.byte()?.into();
                self.recall(slot)?;
            }
            b'j' => {
                let slot = self.len4()?;
                self.recall(slot)?;
            }
            b']' | b')' | 0x8f => self.push(Value::Sequence(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b't' | b'l' | 0x91 => {
                let items = self.pop_to_mark()?;
                self.push(Value::Sequence(items));
            }
            0x85..=0x87 => {
                let n = usize::from(op - 0x84);
                let from = self.stack.len().checked_sub(n).filter(|&from| from >= self.floor());
                let items =
                    self.stack.split_off(from.ok_or_else(|| self.damaged("values for a tuple", "an empty stack"))?);
                self.push(Value::Sequence(items));
            }
            b'd' => {
                let items = self.pop_to_mark()?;
                let pairs = self.pairs(items)?;
                self.push(Value::Dict(pairs));
            }
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b'e' | 0x90 => {
                let items = self.pop_to_mark()?;
                self.extend(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![(key, value)])?;
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                let pairs = self.pairs(items)?;
                self.set(pairs)?;
            }
            b'c' => {
                let module = self.line()?;
                let name = self.line()?;
                self.push(Value::Global(format!("{module}.{name}")));
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                match (&self.values[module], &self.values[name]) {
                    (Value::Text(module), Value::Text(name)) => {
                        let global = format!("{module}.{name}");
                        self.push(Value::Global(global));
                    }
                    _ => return Err(self.damaged("names of a module and of something in it", "other values")),
                }
            }
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let function = self.pop()?;
                self.call(function, arguments)?;
            }
            0x92 => {
                let _keywords = self.pop()?;
                let arguments = self.pop()?;
                let function = self.pop()?;
                self.call(function, arguments)?;
            }
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            // INST and the registry of extensions name functions in other ways, which nobody writes any more.
            b'i' | b'o' | 0x82..=0x84 => {
                return Err(self.fault(Kind::Code(format!("something by operation {op:#04x}"))));
            }
            _ => return Err(self.damaged("an operation of a pickle", &format!("byte {op:#04x}"))),
        }
        Ok(true)
    }

    pub(super) fn fault(&self, kind: Kind) -> Fault {
        Fault { offset: self.op_at, kind }
    }

    pub(super) fn damaged(&self, expected: &'static str, got: &str) -> Fault {
        self.fault(Kind::Damaged { expected, got: got.to_owned() })
    }

    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8], Fault> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end =
            end.ok_or_else(|| self.damaged("a whole pickle", &format!("its end after {} bytes", self.bytes.len())))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.array::<1>()?[0])
    }

    fn len4(&mut self) -> Result<usize, Fault> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn len8(&mut self) -> Result<usize, Fault> {
        let len = u64::from_le_bytes(self.array()?);
        usize::try_from(len).map_err(|_| self.damaged("a length", &len.to_string()))
    }

    fn line(&mut self) -> Result<String, Fault> {
        let rest = &self.bytes[self.at..];
        let Some(len) = rest.iter().position(|&byte| byte == b'\n') else {
            return Err(self.damaged("a whole pickle", "its end within a name"));
        };
        let line = String::from_utf8_lossy(&rest[..len]).trim_end_matches('\r').to_owned();
        self.at += len + 1;
        Ok(line)
    }

    fn long(&mut self, len: usize) -> Result<(), Fault> {
        let bytes = self.take(len)?;
        if len > 8 {
            // Seeds and the like; no size or shape is as large.
            self.push(Value::Bytes(bytes.to_vec()));
            return Ok(());
        }
        let sign = if bytes.last().is_some_and(|&top| top >= 0x80) { 0xff } else { 0 };
        let mut wide = [sign; 8];
        wide[..len].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn text(&mut self, len: usize) -> Result<(), Fault> {
        let bytes = self.take(len)?;
        self.push(Value::Text(String::from_utf8_lossy(bytes).into_owned()));
        Ok(())
    }

    fn raw(&mut self, len: usize) -> Result<(), Fault> {
        let bytes = self.take(len)?;
        self.push(Value::Bytes(bytes.to_vec()));
        Ok(())
    }

    pub(super) fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    /// Values below the last mark belong to whoever set it.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    pub(super) fn top(&self) -> Result<Id, Fault> {
        let top = self.stack.last().filter(|_| self.stack.len() > self.floor());
        top.copied().ok_or_else(|| self.damaged("a value", "an empty stack"))
    }

    pub(super) fn pop(&mut self) -> Result<Id, Fault> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Fault> {
        let mark = self.marks.pop().ok_or_else(|| self.damaged("a mark", "none"))?;
        Ok(self.stack.split_off(mark))
    }

    fn put(&mut self, slot: usize) -> Result<(), Fault> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: usize) -> Result<(), Fault> {
        let id = self.memo.get(&slot).copied();
        self.stack.push(id.ok_or_else(|| self.damaged("a value that was put away", &format!("number {slot}")))?);
        Ok(())
    }

    fn pairs(&self, items: Vec<Id>) -> Result<Vec<(Id, Id)>, Fault> {
        if !items.len().is_multiple_of(2) {
            return Err(self.damaged("keys with values", "a key alone"));
        }
        Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn extend(&mut self, items: Vec<Id>) -> Result<(), Fault> {
        let list = self.top()?;
        match &mut self.values[list] {
            Value::Sequence(list) => list.extend(items),
            _ => return Err(self.damaged("a list to extend", "another value")),
        }
        Ok(())
    }

    fn set(&mut self, pairs: Vec<(Id, Id)>) -> Result<(), Fault> {
        let dict = self.top()?;
        match &mut self.values[dict] {
            Value::Dict(dict) => dict.extend(pairs),
            _ => return Err(self.damaged("a dictionary to fill", "another value")),
        }
        Ok(())
    }
}
