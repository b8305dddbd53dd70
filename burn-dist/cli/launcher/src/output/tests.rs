use super::*;

/// The lines of a text that comes in pieces of `size` bytes.
fn lines(text: &[u8], size: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut lines = Lines::default();
    for piece in text.chunks(size) {
        lines.feed(piece, |line| found.push(line.to_vec()));
    }
    lines.finish(|line| found.push(line.to_vec()));
    found
}

#[test]
fn lines_do_not_depend_on_how_bytes_come() {
    for (text, expected) in [
        (&b""[..], &[][..]),
        (b"a\nbc\n", &[&b"a"[..], b"bc"]),
        (b"\n\na\n", &[b"", b"", b"a"]),
        (b"no end", &[b"no end"]),
        (b"a\nno end", &[b"a", b"no end"]),
        (b"\xFF\xFE\0\n", &[b"\xFF\xFE\0"]),
        (b"a\r\n\r\nb\r\n", &[b"a", b"", b"b"]),
        (b"\r10%\r20%\r30%\n", &[b"10%", b"20%", b"30%"]),
        (b"10%\r20%\r\ndone", &[b"10%", b"20%", b"done"]),
        (b"a\rb\n\n", &[b"a", b"b", b""]),
    ] {
        for size in 1..=text.len().max(1) {
            assert_eq!(lines(text, size), expected, "{text:?} by {size}");
        }
    }
}

#[test]
fn a_long_line_is_broken_and_whole() {
    let mut text: Vec<u8> = (0..MAX_LINE * 2 + 5)
        .map(|at| b'a' + (at % 26) as u8)
        .collect();
    for size in [1000, MAX_LINE, MAX_LINE * 3] {
        let found = lines(&text, size);
        let lengths: Vec<_> = found.iter().map(Vec::len).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 5]);
        assert_eq!(found.concat(), text);
    }
    // The end of a line that just fits makes no line of its own.
    text.truncate(MAX_LINE);
    text.extend(b"\nb\n");
    let lengths: Vec<_> = lines(&text, 1000).iter().map(Vec::len).collect();
    assert_eq!(lengths, [MAX_LINE, 1]);
}

#[test]
fn the_tail_keeps_the_last_lines() {
    let tail = Tail::new(10);
    assert!(tail.lines().is_empty());
    for line in 0..25 {
        tail.push(line.to_string().as_bytes());
    }
    let expected: Vec<_> = (15..25).map(|line| line.to_string().into_bytes()).collect();
    assert_eq!(tail.lines(), expected);
}
