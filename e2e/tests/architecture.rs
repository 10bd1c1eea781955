//! Checks the layers of `e2e/src` that its `lib.rs` lists.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// A module's path in the crate: `["cluster", "bed"]`.
type Module = Vec<String>;
type Graph<T> = BTreeMap<T, BTreeSet<T>>;

/// The layers from top to bottom. `lib.rs` and `main.rs` are above them.
const LAYERS: &[&[&str]] = &[
    &["demo", "testing", "bench"],
    &["environment", "prepare"],
    &["operator"],
    &["peers"],
    &["cluster"],
    &["image", "forward"],
    &["run", "progress", "program", "reference", "tls"],
];

#[test]
fn top_level_modules_use_only_lower_layers() {
    let layer = |module: &str| {
        let found = LAYERS.iter().position(|layer| layer.contains(&module));
        found.unwrap_or_else(|| panic!("{module} is missing in LAYERS of e2e/tests/architecture.rs"))
    };
    let edges = top_level(&edges(&sources()));
    assert!(edges.len() > 8, "too few modules were read: {edges:?}");
    let upward: Vec<String> = edges
        .iter()
        .flat_map(|(from, targets)| targets.iter().map(move |to| (from, to)))
        .filter(|(from, to)| layer(from) >= layer(to))
        .map(|(from, to)| format!("{from} -> {to}"))
        .collect();
    assert!(upward.is_empty(), "modules use a layer that is not below their own: {upward:?}");
}

#[test]
fn modules_have_no_cycle() {
    let edges = edges(&sources());
    assert_eq!(cycle(&top_level(&edges)), None);
    assert_eq!(cycle(&edges), None);
}

#[test]
fn cycle_detection_reports_its_modules() {
    let source = |path: &str, text: &str| (path.split("::").map(str::to_owned).collect::<Module>(), text.to_owned());
    let sources = BTreeMap::from([
        source("a", "use crate::{b::{self, Thing}, c::Other as Name};"),
        source("b", "mod inner;\nfn run() { inner::run() }"),
        source("b::inner", "use super::super::c;"),
        source("c", "// crate::a::comment\nfn run() { crate::a::run() }"),
    ]);
    let edges = edges(&sources);
    assert!(edges[&vec!["b".to_owned()]].contains(&vec!["b".to_owned(), "inner".to_owned()]));
    assert_eq!(cycle(&top_level(&edges)).unwrap(), ["a", "b", "c"]);
    assert_eq!(cycle(&edges).unwrap().len(), 4, "a, b, b::inner, c, and a again");
}

/// The source text of every module.
fn sources() -> BTreeMap<Module, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = BTreeMap::new();
    read(&root, &Module::new(), &mut sources);
    sources
}

#[expect(clippy::unwrap_used, reason = "an unreadable source fails the test")]
fn read(folder: &Path, parent: &Module, sources: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        let mut module = parent.clone();
        if path.is_dir() {
            module.push(stem.to_owned());
            read(&path, &module, sources);
            continue;
        }
        let is_root = parent.is_empty() && ["lib", "main"].contains(&stem);
        if path.extension().is_none_or(|extension| extension != "rs") || is_root {
            continue;
        }
        if stem != "mod" {
            module.push(stem.to_owned());
        }
        sources.insert(module, fs::read_to_string(&path).unwrap());
    }
}

fn without_comments_and_tests(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

fn edges(sources: &BTreeMap<Module, String>) -> Graph<Module> {
    let mut edges = Graph::new();
    for (module, text) in sources {
        let targets: &mut BTreeSet<Module> = edges.entry(module.clone()).or_default();
        for path in paths(&without_comments_and_tests(text)) {
            let Some(mut target) = resolve(module, &path, sources) else { continue };
            // The longest prefix that is a module; the rest names an item.
            while !target.is_empty() && !sources.contains_key(&target) {
                target.pop();
            }
            if !target.is_empty() && target != *module {
                targets.insert(target);
            }
        }
    }
    edges
}

/// The absolute path of a path in a module, if it refers to this crate.
fn resolve(module: &Module, path: &[String], sources: &BTreeMap<Module, String>) -> Option<Module> {
    let supers = path.iter().take_while(|segment| *segment == "super").count();
    match path.first()?.as_str() {
        "crate" => Some(path[1..].to_vec()),
        "self" => Some([module, &path[1..]].concat()),
        "super" => Some([&module[..module.len().checked_sub(supers)?], &path[supers..]].concat()),
        child => {
            let child = [&module[..], &[child.to_owned()]].concat();
            sources.contains_key(&child).then(|| [module, path].concat())
        }
    }
}

/// All paths of at least two segments, with `use` groups expanded.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("::") {
        let start = rest[..at].rfind(|character: char| !is_word(character)).map_or(0, |before| before + 1);
        let (mut path, mut end) = (vec![rest[start..at].to_owned()], at);
        while let Some(after) = rest[end..].strip_prefix("::") {
            let length = after.find(|character| !is_word(character)).unwrap_or(after.len());
            if length == 0 {
                break;
            }
            path.push(after[..length].to_owned());
            end += 2 + length;
        }
        let group = rest[end..].strip_prefix("::{").and_then(|group| Some(&group[..closing_brace(group)?]));
        match group {
            Some(group) => {
                paths.extend(group_paths(group).into_iter().map(|member| [&path[..], &member].concat()));
                end += "::{}".len() + group.len();
            }
            None => paths.push(path),
        }
        rest = &rest[end.max(at + 2)..];
    }
    paths
}

fn group_paths(group: &str) -> Vec<Vec<String>> {
    let (mut members, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (at, character) in group.char_indices().chain([(group.len(), ',')]) {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let member = group[start..at].trim();
                start = at + 1;
                if member.contains("::") {
                    members.extend(paths(member));
                } else if let Some(name) = member.split_whitespace().next() {
                    members.push(if name == "self" { Vec::new() } else { vec![name.to_owned()] });
                }
            }
            _ => (),
        }
    }
    members
}

fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 1_usize;
    text.char_indices().find_map(|(at, character)| {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => (),
        }
        (depth == 0).then_some(at)
    })
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

fn top_level(edges: &Graph<Module>) -> Graph<String> {
    let mut top = Graph::new();
    for (from, targets) in edges {
        let outside = targets.iter().filter(|to| to[0] != from[0]).map(|to| to[0].clone());
        top.entry(from[0].clone()).or_insert_with(BTreeSet::new).extend(outside);
    }
    top
}

fn cycle<T: Clone + Ord>(edges: &Graph<T>) -> Option<Vec<T>> {
    let reachable = |from: &T| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.clone()]);
        while let Some(module) = next.pop() {
            let targets = edges.get(&module).into_iter().flatten();
            next.extend(targets.filter(|target| seen.insert((*target).clone())).cloned());
        }
        seen
    };
    edges.keys().find_map(|module| {
        let all = reachable(module);
        all.contains(module).then(|| all.into_iter().filter(|other| reachable(other).contains(module)).collect())
    })
}
