//! What a pickle holds, as plain data.

use serde_json::{Map, Number};

/// A value's place among all values of a pickle.
pub(in crate::codecs) type Id = usize;

/// How deep [`Pickle::to_json`] walks: a pickle may hold itself.
const MAX_DEPTH: usize = 24;

/// One value. Values point at each other by [`Id`], so that one that is shared stands once, and one that holds itself does
/// no harm.
#[derive(Debug, Clone)]
pub(in crate::codecs) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// A tuple, a list or a set.
    Sequence(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    /// `module.name`, never looked up.
    Global(String),
    /// What a call of `function` would have made of `arguments`, and the state that was set on it.
    Made {
        function: String,
        arguments: Id,
        state: Option<Id>,
    },
    /// What PyTorch keeps outside of the pickle.
    Persistent(Id),
    /// An array whose bytes lie in the stream itself (joblib).
    Array(Array),
}

/// Where the bytes of an array of joblib lie.
#[derive(Debug, Clone)]
pub(in crate::codecs) struct Array {
    /// numpy's type: `<f4`, `<f8`, ...
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Column-major.
    pub fortran: bool,
    pub offset: usize,
    pub len_bytes: usize,
}

/// A pickle that was read.
#[derive(Debug)]
pub(in crate::codecs) struct Pickle {
    pub(super) values: Vec<Value>,
    pub(super) root: Id,
}

impl Pickle {
    pub fn root(&self) -> Id {
        self.root
    }

    /// All values.
    pub fn ids(&self) -> impl Iterator<Item = Id> {
        0..self.values.len()
    }

    pub fn get(&self, id: Id) -> &Value {
        // Ids are only made together with their values.
        self.values.get(id).unwrap_or(&Value::None)
    }

    pub fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            // Python 2 wrote names as bytes.
            Value::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    pub fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Int(value) => Some(*value),
            _ => None,
        }
    }

    pub fn sequence(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Sequence(items) => Some(items),
            // torch.Size and the like: made of one sequence.
            Value::Made { arguments, .. } => match self.get(*arguments) {
                Value::Sequence(items) if items.len() == 1 => match self.get(items[0]) {
                    Value::Sequence(items) => Some(items),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        }
    }

    pub fn dict(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(items) => Some(items),
            _ => None,
        }
    }

    /// The value of a key of a dictionary, or of an attribute of an object.
    pub fn field(&self, id: Id, key: &str) -> Option<Id> {
        let id = match self.get(id) {
            Value::Made { state: Some(state), .. } => *state,
            _ => id,
        };
        // The last one wins, as in Python.
        self.dict(id)?.iter().rev().find(|(have, _)| self.text(*have) == Some(key)).map(|(_, value)| *value)
    }

    /// Settings as JSON: what is neither number, text, list nor dictionary becomes null.
    pub fn to_json(&self, id: Id) -> serde_json::Value {
        let mut budget = 100_000;
        self.json(id, MAX_DEPTH, &mut budget)
    }

    fn json(&self, id: Id, depth: usize, budget: &mut usize) -> serde_json::Value {
        use serde_json::Value as Json;
        // Every null counts too: a list may hold itself many times.
        if *budget == 0 {
            return Json::Null;
        }
        *budget -= 1;
        if depth == 0 {
            return Json::Null;
        }
        match self.get(id) {
            Value::Bool(value) => Json::Bool(*value),
            Value::Int(value) => Json::from(*value),
            Value::Float(value) => Number::from_f64(*value).map_or(Json::Null, Json::Number),
            Value::Text(text) => Json::from(text.as_str()),
            Value::Sequence(items) => {
                let mut array = Vec::new();
                for &item in items {
                    if *budget == 0 {
                        break;
                    }
                    array.push(self.json(item, depth - 1, budget));
                }
                Json::Array(array)
            }
            Value::Dict(items) => {
                let mut map = Map::new();
                for &(key, value) in items {
                    if *budget == 0 {
                        break;
                    }
                    if let Some(key) = self.text(key) {
                        map.insert(key.to_owned(), self.json(value, depth - 1, budget));
                    }
                }
                Json::Object(map)
            }
            // A namespace: its attributes.
            Value::Made { state: Some(state), .. } => self.json(*state, depth - 1, budget),
            _ => Json::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_holds_itself_many_times_stays_small() {
        let pickle = Pickle { values: vec![Value::Sequence(vec![0; 30_000])], root: 0 };
        assert!(pickle.to_json(0).to_string().len() < 1_000_000);
    }
}
