//! What the README shows is what the examples are.

#[test]
fn the_readme_shows_the_smallest_loop_as_it_is() {
    let readme = include_str!("../../README.md");
    let program = include_str!("../custom_loop.rs");
    assert!(readme.contains(program.trim_end()));
    assert!(program.lines().count() < 80);
}

/// The lines that one text has and the other lacks, in the order of a diff without context.
fn changed<'a>(plain: &'a str, other: &'a str) -> (Vec<&'a str>, Vec<&'a str>) {
    let code = |text: &'a str| {
        let lines = text.lines().filter(|line| !line.starts_with("//!"));
        lines.collect::<Vec<_>>()
    };
    let (plain, other) = (code(plain), code(other));
    let lacks = |text: &[&str], line: &&str| !text.contains(line);
    let gone = plain.iter().filter(|line| lacks(&other, line));
    let new = other.iter().filter(|line| lacks(&plain, line));
    (gone.copied().collect(), new.copied().collect())
}

#[test]
fn the_readme_shows_the_lines_that_make_a_burn_train_program_distributed() {
    let readme = include_str!("../../README.md");
    let plain = include_str!("../learner/plain.rs");
    let distributed = include_str!("../learner/main.rs");
    let (gone, new) = changed(plain, distributed);
    assert_eq!((gone.len(), new.len()), (3, 16));
    for line in gone {
        assert!(readme.contains(&format!("\n-{line}\n")), "{line}");
    }
    for line in new {
        assert!(readme.contains(&format!("\n+{line}\n")), "{line}");
    }
}
