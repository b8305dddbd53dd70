//! What is neither a model's nor an optimizer's record: the sampler's place, the random streams, and the
//! program's own values. As CBOR (RFC 8949), which keeps every number as it is.

use crate::data::SamplerState;
use crate::random::StreamState;
use ciborium::Value;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// Names and values of what a run and its continuation must have alike.
pub(super) type Settings = Vec<(String, String)>;

/// Values by name.
pub(super) type Values = BTreeMap<String, Value>;

/// As deep as what is read may be nested, so that damaged bytes can't use up the stack.
const DEEPEST: usize = 64;

/// As deep as a value may be: around those of a rank are the list of ranks, the rank's map, and that of values.
const DEEPEST_VALUE: usize = DEEPEST - 3;

/// State that all ranks share.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Shared {
    pub(super) sampler: Option<SamplerState>,
    #[serde(default)]
    pub(super) settings: Settings,
    pub(super) values: Values,
}

/// State of one rank.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct OfRank {
    pub(super) stream: StreamState,
    pub(super) values: Values,
}

pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

pub(super) fn decode<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<T, String> {
    let value = ciborium::de::from_reader_with_recursion_limit(&mut bytes, DEEPEST)
        .map_err(|error| error.to_string())?;
    if bytes.is_empty() {
        Ok(value)
    } else {
        Err(format!("{} bytes follow its end", bytes.len()))
    }
}

/// Keeps a value under a name that is not taken, if [`decode`] can read it again.
pub(super) fn put<T: Serialize>(values: &mut Values, name: &str, value: &T) -> Result<(), String> {
    let wrong = |error| format!("the value `{name}` can't be saved: {error}");
    let value = Value::serialized(value).map_err(wrong)?;
    if !fits(&value, DEEPEST_VALUE) {
        return Err(format!(
            "the value `{name}` can't be saved: it is nested deeper than {DEEPEST_VALUE} levels, and could \
             not be read again; flatten it, or save it as text"
        ));
    }
    match values.insert(name.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(format!("two values are called `{name}`")),
    }
}

/// True if the value has no more than `levels` levels of lists, maps and tags.
fn fits(value: &Value, levels: usize) -> bool {
    let inner = |value: &Value| levels > 0 && fits(value, levels - 1);
    match value {
        Value::Array(items) => levels > 0 && items.iter().all(inner),
        Value::Map(entries) => levels > 0 && entries.iter().all(|(k, v)| inner(k) && inner(v)),
        Value::Tag(_, value) => inner(value),
        _ => true,
    }
}

pub(super) fn get<T: DeserializeOwned>(values: &Values, name: &str) -> Result<T, String> {
    let value = values.get(name).ok_or_else(|| {
        let names: Vec<_> = values.keys().map(String::as_str).collect();
        format!("it has no value `{name}`, but [{}]", names.join(", "))
    })?;
    value
        .deserialized()
        .map_err(|error| format!("its value `{name}` is of another type: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_number_comes_back_to_the_bit(
            double in any::<u64>(), single in any::<u32>(), whole: (u64, i64), text: Option<String>,
        ) {
            let mut values = Values::new();
            let value = (f64::from_bits(double), f32::from_bits(single), whole, &text);
            put(&mut values, "a", &value).unwrap();
            let bytes = encode(&Shared { values, ..Shared::default() }).unwrap();
            let back: Shared = decode(&bytes).unwrap();
            let (d, s, w, t) = get::<(f64, f32, (u64, i64), Option<String>)>(&back.values, "a").unwrap();
            // A NaN stays one, with a payload of its own.
            prop_assert!(d.to_bits() == double || d.is_nan() && value.0.is_nan());
            prop_assert!(s.to_bits() == single || s.is_nan() && value.1.is_nan());
            prop_assert_eq!((w, t), (whole, text));
        }

        #[test]
        fn any_bytes_are_a_state_or_an_error(bytes: Vec<u8>) {
            // It must return; what it returns depends on the bytes.
            let _ = decode::<Shared>(&bytes);
        }
    }

    /// Lists, maps and tags in one another, so many.
    fn nested(levels: usize) -> Value {
        (0..levels).fold(Value::Bool(true), |inner, level| match level % 4 {
            0 => Value::Array(vec![inner]),
            1 => Value::Map(vec![(Value::Null, inner)]),
            2 => Value::Map(vec![(inner, Value::Null)]),
            _ => Value::Tag(1000, Box::new(inner)),
        })
    }

    #[test]
    fn what_was_put_can_be_read_however_deep() {
        let mut values = Values::new();
        put(&mut values, "deepest", &nested(DEEPEST_VALUE)).unwrap();
        let own = OfRank {
            stream: crate::random::state(),
            values: values.clone(),
        };
        let ranks = vec![own.clone(), own];
        let bytes = encode(&ranks).unwrap();
        assert_eq!(decode::<Vec<OfRank>>(&bytes), Ok(ranks));
        let shared = Shared {
            values,
            ..Shared::default()
        };
        let bytes = encode(&shared).unwrap();
        assert_eq!(decode::<Shared>(&bytes), Ok(shared));

        let mut values = Values::new();
        for beyond in 1..=4 {
            let error = put(&mut values, "deep", &nested(DEEPEST_VALUE + beyond)).unwrap_err();
            let due = "the value `deep` can't be saved: it is nested deeper than 61 levels";
            assert!(error.starts_with(due), "{error}");
        }
        assert_eq!(values, Values::new());
    }

    #[test]
    fn what_can_not_be_is_said() {
        let mut values = Values::new();
        put(&mut values, "loss", &1.5).unwrap();
        assert!(
            put(&mut values, "loss", &2.5)
                .unwrap_err()
                .contains("two values")
        );
        assert!(
            get::<f64>(&values, "los")
                .unwrap_err()
                .contains("but [loss]")
        );
        assert!(
            get::<String>(&values, "loss")
                .unwrap_err()
                .contains("another type")
        );
        // A text that claims 2^60 bytes, and arrays without end.
        let mut long = vec![0x7B];
        long.extend((1_u64 << 60).to_be_bytes());
        assert!(decode::<Value>(&long).is_err());
        assert!(decode::<Value>(&vec![0x81; 100_000]).is_err());
        assert!(
            decode::<u8>(&[1, 2])
                .unwrap_err()
                .contains("1 bytes follow")
        );
    }
}
