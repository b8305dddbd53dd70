//! ARCHITECTURE.md against the code: the files and functions that it names exist, and imports are as it says.

#![expect(clippy::expect_used, reason = "the helpers of a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// The checkout: its page, and the text of every Rust file by path.
struct Checkout {
    page: String,
    /// Every file and folder.
    paths: BTreeSet<String>,
    sources: BTreeMap<String, String>,
}

impl Checkout {
    fn read() -> Self {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("xtask lies in the checkout");
        let page = fs::read_to_string(top.join("ARCHITECTURE.md")).expect("the page can be read");
        let mut checkout = Self {
            page,
            paths: BTreeSet::new(),
            sources: BTreeMap::new(),
        };
        checkout.walk(top, top);
        checkout
    }

    /// Notes everything below a folder, except build outputs and hidden folders.
    fn walk(&mut self, top: &Path, folder: &Path) {
        for entry in fs::read_dir(folder).expect("a folder of the checkout can be read") {
            let path = entry.expect("an entry of the checkout can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name == "target" || name.starts_with('.') {
                continue;
            }
            let relative = path.strip_prefix(top).expect("below the checkout");
            let relative = relative.to_string_lossy().replace('\\', "/");
            if path.is_dir() {
                self.walk(top, &path);
            } else if is_rust(&name) {
                let text = fs::read_to_string(&path).expect("a source file is text");
                self.sources.insert(relative.clone(), text);
            }
            self.paths.insert(relative);
        }
    }

    /// The names in backticks.
    fn names(&self) -> BTreeSet<&str> {
        self.page
            .lines()
            .flat_map(|line| line.split('`').skip(1).step_by(2))
            .collect()
    }

    /// Files whose path ends so.
    fn files<'a>(&'a self, end: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let files = self.sources.iter();
        files
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .filter(move |(path, _)| is_end(path, end))
    }
}

#[test]
fn files_and_folders_exist() {
    let checkout = Checkout::read();
    let names = checkout.names().into_iter();
    let names = names.filter(|name| {
        let is_path = name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        is_path && (name.contains('/') || is_rust(name))
    });
    let missing: Vec<&str> = names
        .filter(|name| {
            let end = name.trim_end_matches('/');
            !checkout.paths.iter().any(|path| is_end(path, end))
        })
        .collect();
    assert!(missing.is_empty(), "no file or folder: {missing:?}");
}

#[test]
fn functions_of_types_and_modules_exist() {
    let checkout = Checkout::read();
    let names: Vec<(&str, &str)> = checkout
        .names()
        .into_iter()
        .filter_map(|name| name.split_once("::"))
        .collect();
    assert!(
        names.len() > 20,
        "expected the page's functions, found {names:?}"
    );
    let missing: Vec<_> = names
        .into_iter()
        .filter(|&(owner, function)| {
            let of_type = || {
                let sources = checkout.sources.values();
                sources
                    .into_iter()
                    .any(|text| has_method(text, owner, function))
            };
            let of_module = || {
                let files = [
                    format!("{owner}.rs"),
                    format!("{owner}/mod.rs"),
                    format!("{function}.rs"),
                ];
                files.iter().any(|file| {
                    checkout
                        .files(file)
                        .any(|(_, text)| has_function(text, function))
                })
            };
            !(of_type() || of_module())
        })
        .collect();
    assert!(missing.is_empty(), "no function: {missing:?}");
}

/// Rows of the table of calls: number, function, file, what it does.
#[test]
fn the_calls_of_a_gradient_exist() {
    let checkout = Checkout::read();
    let mut file = "";
    let mut calls = 0;
    let mut missing = Vec::new();
    for line in checkout.page.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, function, place, ..] = cells[..] else {
            continue;
        };
        if number.parse::<usize>().is_err() {
            continue;
        }
        calls += 1;
        if !place.is_empty() {
            file = place.trim_matches('`');
        }
        let path = function.trim_matches('`');
        let function = path.rsplit("::").next().unwrap_or(path);
        if !checkout
            .files(file)
            .any(|(_, text)| has_function(text, function))
        {
            missing.push((path, file));
        }
    }
    assert!(
        calls > 10,
        "expected the table of calls, found {calls} rows"
    );
    assert!(
        missing.is_empty(),
        "no function of this name in its file: {missing:?}"
    );
}

#[test]
fn imports_point_down_the_list_of_folders() {
    let checkout = Checkout::read();
    let folders = folders(&checkout.page);
    let imports = imports(&checkout, &folders);
    let mut report = String::new();
    for (from, to, file) in &imports {
        let level = |folder: &str| folders.iter().position(|name| *name == folder);
        if level(from) > level(to) {
            let _ = writeln!(report, "{file}: {from} imports {to}, which is above it");
        }
    }
    assert!(report.is_empty(), "{report}");
}

/// Rows of the table of imports: folder, the folders that it uses.
#[test]
fn imports_are_those_of_the_table() {
    let checkout = Checkout::read();
    let folders = folders(&checkout.page);
    let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to, _) in imports(&checkout, &folders) {
        if !["element", "codec", "error"].contains(&to) {
            found.entry(from).or_default().insert(to);
        }
    }
    let rows = checkout
        .page
        .lines()
        .skip_while(|line| *line != "| folder | uses |");
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    let mut report = String::new();
    let mut count = 0;
    for row in rows {
        count += 1;
        let mut names = row.split('`').skip(1).step_by(2);
        let folder = names.next().unwrap_or_default();
        let named: BTreeSet<&str> = names.filter(|name| folders.contains(name)).collect();
        let found = found.remove(folder).unwrap_or_default();
        if named != found {
            let _ = writeln!(
                report,
                "{folder}: the page has {named:?}, the code {found:?}"
            );
        }
    }
    assert!(
        count > 5,
        "expected the table of imports, found {count} rows"
    );
    assert!(report.is_empty(), "{report}");
}

/// The folders of the library, from the top of the page's list.
fn folders(page: &str) -> Vec<&str> {
    let lines = page
        .lines()
        .skip_while(|line| !line.starts_with("One folder is one idea"));
    let lines = lines.skip(2).take_while(|line| line.starts_with("    "));
    let names = lines.filter_map(|line| {
        let line = &line[4..];
        (!line.starts_with(' ')).then(|| line.split(' ').next().unwrap_or(line))
    });
    let names: Vec<&str> = names.collect();
    assert!(
        names.len() > 15,
        "expected the list of folders, found {names:?}"
    );
    names
}

/// The imports between folders of the library, outside of tests: from, to, and the file.
fn imports<'a>(
    checkout: &'a Checkout,
    folders: &[&'a str],
) -> BTreeSet<(&'a str, &'a str, &'a str)> {
    let mut imports = BTreeSet::new();
    for (file, text) in &checkout.sources {
        let Some(inside) = file.strip_prefix("burn-dist/src/") else {
            continue;
        };
        let from = inside.split('/').next().unwrap_or(inside);
        let from = folders
            .iter()
            .find(|name| from.trim_end_matches(".rs") == **name);
        let Some(&from) = from.filter(|_| !is_test(file, checkout)) else {
            continue;
        };
        let code = text.split("#[cfg(test)]\nmod tests {").next();
        let lines = code.into_iter().flat_map(str::lines);
        for line in lines.filter(|line| !line.trim_start().starts_with("//")) {
            for part in line.split("crate::").skip(1) {
                let group = part
                    .strip_prefix('{')
                    .and_then(|rest| rest.split('}').next());
                for name in group.unwrap_or(part).split(", ") {
                    let to = folders.iter().find(|folder| word(name) == **folder);
                    if let Some(&to) = to.filter(|to| **to != from) {
                        imports.insert((from, to, file.as_str()));
                    }
                }
            }
        }
    }
    assert!(
        imports.len() > 50,
        "expected imports between folders, found {imports:?}"
    );
    imports
}

/// True for a file that is compiled for tests alone.
fn is_test(file: &str, checkout: &Checkout) -> bool {
    if file.contains("/tests/") || file.ends_with("/tests.rs") {
        return true;
    }
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    let module = name.trim_end_matches(".rs");
    let parents = [format!("{folder}/mod.rs"), format!("{folder}.rs")];
    parents.iter().any(|parent| {
        let text = checkout.sources.get(parent).map_or("", String::as_str);
        ["mod", "pub(crate) mod", "pub mod"]
            .iter()
            .any(|item| text.contains(&format!("#[cfg(test)]\n{item} {module};")))
    })
}

/// True if a type or trait of this name has a method in this file.
fn has_method(text: &str, owner: &str, method: &str) -> bool {
    let mut inside = false;
    text.lines().any(|line| {
        if line.starts_with(char::is_alphabetic) && line != "where" {
            let is_block = ["impl", "trait"].contains(&word(without_visibility(line)));
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            inside = is_block && words.any(|word| word == owner);
        }
        inside && line.starts_with(' ') && has_function(line, method)
    })
}

/// A line without its leading `pub` or `pub(…)`.
fn without_visibility(line: &str) -> &str {
    match line.split_once(' ') {
        Some((visibility, rest)) if visibility.starts_with("pub") => rest,
        _ => line,
    }
}

/// True if a function of this name is defined.
fn has_function(text: &str, name: &str) -> bool {
    ["(", "<"]
        .iter()
        .any(|end| text.contains(&format!("fn {name}{end}")))
}

fn is_rust(file: &str) -> bool {
    Path::new(file)
        .extension()
        .is_some_and(|extension| extension == "rs")
}

/// True if a path is this one, or ends with it after a slash.
fn is_end(path: &str, end: &str) -> bool {
    let rest = path.strip_suffix(end);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

/// The leading word of a text.
fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .unwrap_or_default()
}
