//! Calls, and the states of what they make.

use super::calls;
use super::machine::{Fault, Kind, Machine};
use super::value::{Array, Id, Pickle, Value};

/// What joblib describes an array with, whose bytes follow it in the stream.
const WRAPPER: &str = "joblib.numpy_pickle.NumpyArrayWrapper";

impl Machine<'_> {
    pub(super) fn call(&mut self, function: Id, arguments: Id) -> Result<(), Fault> {
        let Value::Global(name) = &self.values[function] else {
            return Err(self.fault(Kind::Code("a value that is no name".to_owned())));
        };
        let mut name = name.clone();
        if calls::is_reconstructor(&name) {
            let class = match &self.values[arguments] {
                Value::Sequence(items) => items.first().map(|&class| &self.values[class]),
                _ => None,
            };
            match class {
                Some(Value::Global(class)) => name = class.clone(),
                _ => return Err(self.damaged("a class to make an object of", "another value")),
            }
        }
        if !calls::is_data(&name) {
            return Err(self.fault(Kind::Code(name)));
        }
        if calls::is_dict(&name) {
            let pairs = self.initial_pairs(arguments);
            self.push(Value::Dict(pairs));
        } else {
            self.push(Value::Made { function: name, arguments, state: None });
        }
        Ok(())
    }

    /// Python 2 wrote an `OrderedDict` as a call with a list of pairs.
    fn initial_pairs(&self, arguments: Id) -> Vec<(Id, Id)> {
        let items = |id: Id| match &self.values[id] {
            Value::Sequence(items) => &items[..],
            _ => &[],
        };
        let pair = |&id: &Id| match items(id) {
            &[key, value] => Some((key, value)),
            _ => None,
        };
        items(arguments).first().map_or_else(Vec::new, |&list| items(list).iter().filter_map(pair).collect())
    }

    pub(super) fn build(&mut self) -> Result<(), Fault> {
        let new_state = self.pop()?;
        let object = self.top()?;
        match &mut self.values[object] {
            Value::Made { state, function, .. } => {
                *state = Some(new_state);
                if function == WRAPPER {
                    let array = self.read_array(new_state)?;
                    self.values[object] = Value::Array(array);
                }
            }
            // Attributes of a dictionary or of a tensor (hooks, metadata): nothing that has to be known.
            Value::Dict(_) | Value::Sequence(_) => {}
            _ => return Err(self.damaged("an object to give a state", "another value")),
        }
        Ok(())
    }

    /// joblib writes an array's bytes right behind the object that describes it.
    fn read_array(&mut self, state: Id) -> Result<Array, Fault> {
        let here = Pickle { values: std::mem::take(&mut self.values), root: state };
        let described = describe(&here, state);
        self.values = here.values;
        let (dtype, item_bytes, shape, fortran, aligned) =
            described.ok_or_else(|| self.damaged("an array of numbers", "a description of something else"))?;
        if aligned {
            let padding = self.byte()?.into();
            self.take(padding)?;
        }
        let len_bytes = shape.iter().try_fold(item_bytes, |n, &side| n.checked_mul(side));
        let len_bytes = len_bytes.ok_or_else(|| self.damaged("a shape", &format!("{shape:?}")))?;
        let offset = self.at;
        self.take(len_bytes)?;
        Ok(Array { dtype, shape, fortran, offset, len_bytes })
    }
}

/// Type, bytes of an element, shape, whether column-major, whether padded.
fn describe(pickle: &Pickle, state: Id) -> Option<(String, usize, Vec<usize>, bool, bool)> {
    let shape = pickle.sequence(pickle.field(state, "shape")?)?;
    let shape = shape.iter().map(|&side| usize::try_from(pickle.int(side)?).ok()).collect::<Option<Vec<_>>>()?;
    let Value::Made { arguments, state: dtype_state, .. } = pickle.get(pickle.field(state, "dtype")?) else {
        return None;
    };
    let code = pickle.text(*pickle.sequence(*arguments)?.first()?)?;
    let item_bytes = code.get(1..)?.parse().ok()?;
    // An array of objects has a pickle of its own in place of bytes.
    if !matches!(code.as_bytes().first(), Some(b'f' | b'i' | b'u' | b'b')) {
        return None;
    }
    let order = dtype_state.and_then(|state| pickle.sequence(state)).and_then(|state| pickle.text(*state.get(1)?));
    let order = if order == Some(">") { '>' } else { '<' };
    let fortran = pickle.field(state, "order").and_then(|order| pickle.text(order)) == Some("F");
    let aligned = pickle.field(state, "numpy_array_alignment_bytes").and_then(|bytes| pickle.int(bytes)).is_some();
    Some((format!("{order}{code}"), item_bytes, shape, fortran, aligned))
}
