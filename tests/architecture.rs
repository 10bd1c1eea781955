//! The modules of `src/` use only modules below them, without cycles (docs/architecture.md).
//!
//! Test modules are left out: they may use whatever they need. So may the test support in `src/testing`, which only tests may use.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// The modules from top to bottom. A module may use those of later rows. A module in a row of several may use the row's other
/// modules only where [`ASIDE`] says so.
const ROWS: &[&[&str]] = &[
    &["testing"],
    &["main", "cli"],
    &["dev", "login", "keys"],
    &["operator"],
    &["proxy"],
    &["proxy::runtime"],
    &["proxy::authorization_server", "proxy::resource_server"],
    &["proxy::identity_provider"],
    &["proxy::sessions"],
    &["proxy::observability"],
    &["proxy::secrets", "proxy::client_ip", "proxy::clock", "proxy::cors"],
    &["http_client", "http1", "telemetry", "listener"],
    &["oauth"],
    &["config"],
    &["access"],
    &["session"],
    &["crypto"],
    &["end_reasons", "error_chain", "media_type", "private_file", "untrusted_text", "yaml"],
    &["text_enums"],
    &["api"],
];

/// Who may use a neighbour of the same row.
const ASIDE: &[(&str, &str)] = &[("main", "cli"), ("dev", "keys")];

/// Lower modules that a module must not use.
const CLOSED: &[(&str, &str)] = &[
    // The operator and the proxy communicate through files and `/status` only.
    ("operator", "proxy"),
    ("login", "proxy"),
    // These could become crates of their own.
    ("http1", "api"),
    ("http_client", "api"),
];

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let nested = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    nested.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The module of a file: `src/a/b.rs` and `src/a/b/mod.rs` are `[a, b]`.
fn module(source: &Path, file: &Path) -> Vec<String> {
    let relative = file.strip_prefix(source).unwrap().with_extension("");
    let mut parts: Vec<String> = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// The code without comments, string literals and items that exist only in tests.
fn code(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() == "#[cfg(test)]" {
            let indent = line.len() - line.trim_start().len();
            for line in lines.by_ref() {
                let is_at_indent = line.len() - line.trim_start().len() == indent;
                if is_at_indent && (line.ends_with('}') || line.ends_with(';')) {
                    break;
                }
            }
            continue;
        }
        let line = line.split("//").next().unwrap_or_default();
        let outside_strings: String = line.split('"').step_by(2).collect();
        kept.push_str(&outside_strings);
        kept.push('\n');
    }
    kept
}

/// The paths that a `use` tree names: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn flatten(tree: &str, before: &str, paths: &mut Vec<String>) {
    let tree = tree.trim();
    let Some((head, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or_default().trim();
        paths.push(format!("{before}{path}"));
        return;
    };
    let before = format!("{before}{}", head.trim());
    let (mut depth, mut begin) = (0_usize, 0);
    let inner = rest.strip_suffix('}').unwrap_or(rest);
    for (at, character) in inner.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                flatten(&inner[begin..at], &before, paths);
                begin = at + 1;
            }
            _ => (),
        }
    }
    if !inner[begin..].trim().is_empty() {
        flatten(&inner[begin..], &before, paths);
    }
}

/// All paths of the crate that code names, in `use` declarations or in place, from the crate's root.
fn used(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut rest = code;
    let mut in_place = String::new();
    while let Some(at) = rest.find("use ") {
        let is_word = !rest[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_');
        let (before, tree) = rest.split_at(at);
        in_place.push_str(before);
        let end = tree.find(';').unwrap_or(tree.len());
        if is_word {
            flatten(&tree["use ".len()..end], "", &mut paths);
        }
        rest = &tree[end..];
    }
    in_place.push_str(rest);
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    paths.extend(in_place.split(|c: char| !is_path(c)).filter(|word| word.contains("::")).map(str::to_owned));
    paths.iter().filter_map(|path| absolute(path, module)).collect()
}

fn absolute(path: &str, module: &[String]) -> Option<Vec<String>> {
    let mut parts = path.split("::").filter(|part| !part.is_empty()).map(|part| part.trim().to_owned()).peekable();
    let mut root = match parts.peek().map(String::as_str) {
        Some("crate" | "mcp_oauth_operator") => Vec::new(),
        Some("self" | "super") => module.to_vec(),
        _ => return None,
    };
    while let Some(part) =
        parts.next_if(|part| matches!(part.as_str(), "crate" | "mcp_oauth_operator" | "self" | "super"))
    {
        if part == "super" {
            root.pop();
        }
    }
    root.extend(parts);
    Some(root)
}

/// The module of the table that a path belongs to.
fn row_of(path: &[String]) -> Option<&'static str> {
    let path = path.join("::");
    let known = ROWS.iter().copied().flatten().copied();
    let within =
        known.filter(|name| path.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with("::")));
    within.max_by_key(|name| name.len())
}

fn place(name: &str) -> usize {
    ROWS.iter().position(|row| row.contains(&name)).unwrap()
}

/// The edges between modules of the table, each with a file that makes it.
fn edges() -> BTreeMap<(&'static str, &'static str), PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut edges = BTreeMap::new();
    for file in files(&source) {
        let module = module(&source, &file);
        if module.is_empty() || module.iter().any(|part| part == "tests") {
            continue;
        }
        let from = row_of(&module).unwrap_or_else(|| panic!("{}: add the module to the table", file.display()));
        for path in used(&code(&fs::read_to_string(&file).unwrap()), &module) {
            if let Some(to) = row_of(&path).filter(|to| *to != from) {
                edges.entry((from, to)).or_insert_with(|| file.clone());
            }
        }
    }
    edges
}

/// What is wrong with an edge, if anything.
fn fault(from: &str, to: &str) -> Option<&'static str> {
    if ASIDE.contains(&(from, to)) {
        None
    } else if CLOSED.iter().any(|(user, used)| *user == from && to.starts_with(used)) {
        Some("must not be used by it")
    } else if place(to) < place(from) {
        Some("is in a higher row")
    } else if place(to) == place(from) {
        Some("is in the same row")
    } else {
        None
    }
}

#[test]
fn modules_use_only_what_the_table_allows() {
    let edges = edges();
    assert!(edges.len() > 50, "the search finds nothing: {edges:?}");
    let faults: Vec<String> = edges
        .iter()
        .filter_map(|((from, to), file)| {
            fault(from, to).map(|fault| format!("{}: {from} uses {to}, which {fault}", file.display()))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn modules_form_no_cycle() {
    let edges: BTreeSet<(&str, &str)> = edges().into_keys().collect();
    assert_eq!(cycle(&edges), None);
}

/// A module that can be reached from itself.
fn cycle<'a>(edges: &BTreeSet<(&'a str, &'a str)>) -> Option<&'a str> {
    let mut left = edges.clone();
    loop {
        let used: BTreeSet<&str> = left.iter().map(|(_, to)| *to).collect();
        let before = left.len();
        // A module that no other module uses is on no cycle.
        left.retain(|(from, _)| used.contains(from));
        if left.len() == before {
            return left.first().map(|(from, _)| *from);
        }
    }
}

#[test]
fn each_kind_of_violation_is_detected() {
    assert_eq!(fault("proxy::sessions", "proxy::runtime"), Some("is in a higher row"));
    assert_eq!(fault("proxy::authorization_server", "proxy::resource_server"), Some("is in the same row"));
    assert_eq!(fault("operator", "proxy::secrets"), Some("must not be used by it"));
    assert_eq!(fault("proxy::runtime", "testing"), Some("is in a higher row"));
    assert_eq!(fault("testing", "proxy::runtime"), None);
    assert_eq!(fault("proxy::runtime", "api"), None);
    let of = |edges: &[(&'static str, &'static str)]| cycle(&edges.iter().copied().collect());
    assert_eq!(of(&[("a", "b"), ("b", "c")]), None);
    assert_eq!(of(&[("a", "b"), ("b", "c"), ("c", "b")]), Some("b"));
}

#[test]
fn paths_are_read_in_every_form() {
    let module = ["proxy".to_owned(), "runtime".to_owned()];
    let text = "use super::{secrets::{Secrets, self}, sessions as s};\nfn f() { crate::api::x(); } // crate::cli::no\n\
        #[cfg(test)]\nmod tests {\n    use crate::dev::no;\n}\nlet a = \"crate::login::no\";";
    let paths: Vec<String> = used(&code(text), &module).iter().map(|path| path.join("::")).collect();
    let expected =
        ["proxy::secrets::Secrets", "proxy::secrets::self", "proxy::sessions", "api::x"].map(str::to_owned).to_vec();
    assert_eq!(paths, expected);
}
