//! What the README shows is what the examples are.

#[test]
fn the_readme_shows_the_smallest_loop_as_it_is() {
    let readme = include_str!("../../README.md");
    let program = include_str!("../custom_loop.rs");
    assert!(readme.contains(program.trim_end()));
    assert!(program.lines().count() < 80);
}
