//! What a bench program or a peer prints: one measurement a line, as a JSON object.

use clap::ValueEnum;
use serde_json::Value;

/// Layout of ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Layout {
    /// All are threads of one process
    Threads,
    /// Each is a process of its own
    Processes,
}

impl Layout {
    /// As it is typed, and as the lines say.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Processes => "processes",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let all = [Self::Threads, Self::Processes];
        all.into_iter().find(|layout| layout.name() == name)
    }
}

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) bench: String,
    /// Layout of the ranks, and their number.
    pub(super) layout: Layout,
    pub(super) ranks: u64,
    /// Of the tensor, the gradients or whatever the bench is about.
    pub(super) bytes: u64,
    pub(super) seconds: f64,
    /// The way that was measured, of a peer that has several ways of doing the same.
    pub(super) variant: Option<String>,
    /// The comparison of the program itself, and its time.
    pub(super) compared: Option<(String, f64)>,
    /// What the program counted, by name.
    pub(super) counts: Vec<(String, f64)>,
}

impl Line {
    /// The measurement of a line.
    ///
    /// # Errors
    ///
    /// A line that is no JSON object is none of ours, which is no error; one that is must be complete, or
    /// else a change of the format would pass unseen.
    pub(super) fn parse(text: &str) -> Result<Option<Self>, String> {
        let Ok(Value::Object(fields)) = serde_json::from_str(text) else {
            return Ok(None);
        };
        let field = |name: &str| fields.get(name).filter(|value| !value.is_null());
        let wrong = |name: &str| format!("no right `{name}` in: {text}");
        let words = |name| field(name).and_then(Value::as_str).map(str::to_owned);
        let count = |name| field(name).and_then(Value::as_u64);
        // The difference of two times may be below zero.
        let time = |name| field(name).and_then(Value::as_f64);
        let compared = match (words("peer"), time("peer_seconds")) {
            (Some(peer), Some(seconds)) => Some((peer, seconds)),
            (None, None) if field("peer").is_none() && field("peer_seconds").is_none() => None,
            _ => return Err(wrong("peer` and `peer_seconds")),
        };
        let counts = match field("counts") {
            None => Some(Vec::new()),
            Some(counts) => counts.as_object().and_then(|counts| {
                let number =
                    |(name, value): (&String, &Value)| Some((name.clone(), value.as_f64()?));
                counts.iter().map(number).collect()
            }),
        };
        Ok(Some(Self {
            bench: words("bench").ok_or_else(|| wrong("bench"))?,
            layout: words("layout")
                .and_then(|name| Layout::named(&name))
                .ok_or_else(|| wrong("layout"))?,
            ranks: count("ranks").ok_or_else(|| wrong("ranks"))?,
            bytes: count("bytes").ok_or_else(|| wrong("bytes"))?,
            seconds: time("seconds").ok_or_else(|| wrong("seconds"))?,
            variant: words("variant"),
            compared,
            counts: counts.ok_or_else(|| wrong("counts"))?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_is_read() {
        let text = r#"{"bench": "all-reduce", "layout": "threads", "ranks": 2, "bytes": 1048576,
                       "seconds": 2.2e-5, "peer": null, "peer_seconds": null}"#;
        let expected = Line {
            bench: "all-reduce".into(),
            layout: Layout::Threads,
            ranks: 2,
            bytes: 1 << 20,
            seconds: 2.2e-5,
            variant: None,
            compared: None,
            counts: Vec::new(),
        };
        assert_eq!(Line::parse(text).unwrap().unwrap(), expected);

        let text = r#"{"bench":"b","layout":"processes","ranks":4,"bytes":8,"seconds":1,
                       "variant":"ring","peer":"none","peer_seconds":3e-5,"counts":{"messages":3}}"#;
        let line = Line::parse(text).unwrap().unwrap();
        assert_eq!(line.variant.as_deref(), Some("ring"));
        assert_eq!(line.compared, Some(("none".into(), 3e-5)));
        assert_eq!(line.counts, [("messages".to_owned(), 3.0)]);
    }

    #[test]
    fn other_lines_are_no_measurements() {
        for text in ["", "warming up", "3", "[1]", "{", "null"] {
            assert_eq!(Line::parse(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn an_incomplete_measurement_is_an_error() {
        let whole = r#"{"bench":"b","layout":"threads","ranks":2,"bytes":8,"seconds":1,"peer":"p","peer_seconds":2}"#;
        assert!(Line::parse(whole).unwrap().is_some());
        for (part, changed) in [
            (r#""bench":"b","#, ""),
            (r#""layout":"threads""#, r#""layout":"t""#),
            (r#""ranks":2"#, r#""ranks":-2"#),
            (r#""bytes":8,"#, ""),
            (r#""seconds":1"#, r#""seconds":"1""#),
            (r#""seconds":1"#, r#""seconds":null"#),
            (r#","peer_seconds":2"#, ""),
            (r#""peer":"p","#, ""),
            (r#""peer":"p""#, r#""peer":7"#),
            (r#""peer":"p""#, r#""counts":7,"peer":"p""#),
            (r#""peer":"p""#, r#""counts":{"messages":"7"},"peer":"p""#),
        ] {
            let text = whole.replace(part, changed);
            assert_ne!(text, whole);
            let error = Line::parse(&text).unwrap_err();
            assert!(error.contains(&text), "{error}");
        }
    }
}
