//! Slurm's lists of nodes: `login,node[01-04,7]-ib`.

/// The first node of a list; none if it is no such list.
pub(super) fn first(list: &str) -> Option<String> {
    let mut name = String::new();
    let mut rest = list.trim();
    while let Some(next) = rest.chars().next() {
        match next {
            ',' => break,
            '[' => {
                let (range, after) = rest[1..].split_once(']')?;
                // The first number as it is written: its zeros belong to the name.
                let number = range.split([',', '-']).next()?;
                if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                    return None;
                }
                name.push_str(number);
                rest = after;
            }
            _ if next == ']' || next.is_whitespace() => return None,
            _ => {
                name.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_node_is_found_in_every_form() {
        for (list, node) in [
            ("node7", "node7"),
            ("a,b,c", "a"),
            ("node[01-04,7]", "node01"),
            ("node[7,01-04]", "node7"),
            ("node[12]", "node12"),
            ("login,node[1-2]", "login"),
            ("rack[2-3]-n[008-010]", "rack2-n008"),
            ("gpu[1-2].cluster.example,cpu1", "gpu1.cluster.example"),
        ] {
            assert_eq!(first(list).as_deref(), Some(node), "{list}");
        }
        for list in ["", ",a", "node[", "node[]", "node[x-y]", "node]", "a b"] {
            assert_eq!(first(list), None, "{list}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_node_or_nothing(list: String) {
            if let Some(node) = first(&list) {
                prop_assert!(!node.is_empty() && !node.contains(','));
            }
        }
    }
}
