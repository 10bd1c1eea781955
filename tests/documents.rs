//! Documents name only what exists: tests, metrics, fields, conditions, reasons, flags, paths, make targets and links.
//!
//! Names are read from inline code (backticks); flags also from commands in code blocks.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::CommandFactory;
use mcp_oauth_operator::cli::Cli;
use serde_json::Value;

const FOLDERS: [&str; 11] =
    ["src", "docs", "tests", "e2e", "config", "charts", "crds", "bench", "hack", "fuzz", "templates"];

#[test]
fn documents_name_only_what_exists() {
    let facts = Facts::read();
    let findings: Vec<String> = documents().iter().flat_map(|file| facts.check(file, &read(file))).collect();
    assert!(findings.is_empty(), "{} names do not exist:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn each_kind_of_missing_name_is_reported() {
    let facts = Facts::read();
    let cases = [
        ("`documents_name_only_what_never_existed`", "test or identifier"),
        ("`zz9_*`", "test"),
        ("`bed::nowhere`", "test module"),
        ("`mcp_oauth_proxy_nothings_total`", "metric"),
        ("`spec.upstream.uri`", "field"),
        ("`sessions.forever`", "field"),
        ("| reason | what |\n|---|---|\n| `Nonsense` | none |", "reason"),
        ("`NonsenseReason`", "kind, value or reason"),
        ("`--no-such-flag`", "flag"),
        ("```sh\nmcp-oauth-operator keys --config x\n```", "flag"),
        ("`src/nowhere.rs`", "path"),
        ("`nowhere.rs`", "path"),
        ("`make nothing`", "make target"),
        ("[x](nowhere.md)", "link"),
        ("[x](README.md#nowhere)", "anchor"),
    ];
    for (text, kind) in cases {
        let findings = facts.check(&root().join("X.md"), text);
        assert_eq!(findings.len(), 1, "{text}: {findings:?}");
        assert!(findings[0].contains(&format!(": {kind} `")), "{findings:?}");
    }
    let good = "`documents_name_only_what_exists` `mcp_oauth_proxy_requests_total{outcome}` `spec.upstream.url` `Serving` \
                `login --print-token` `--print-token` `tests/documents.rs` `make help` [x](README.md#development)";
    assert_eq!(facts.check(&root().join("X.md"), good), Vec::<String>::new());
}

/// What exists.
struct Facts {
    tests: BTreeSet<String>,
    words: BTreeSet<String>,
    metrics: BTreeSet<String>,
    fields: BTreeSet<String>,
    reasons: BTreeSet<String>,
    flags: BTreeSet<String>,
    targets: BTreeSet<String>,
    files: BTreeSet<String>,
}

impl Facts {
    fn read() -> Self {
        let (mut tests, mut words, mut metrics, mut reasons) =
            (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let mut files = BTreeSet::new();
        for path in FOLDERS.iter().flat_map(|folder| walk(&root().join(folder))) {
            let name = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
            files.insert(name.clone());
            let is_rust = name.ends_with(".rs");
            let is_data = [".yaml", ".json", ".html", ".mjs", ".py"].iter().any(|end| name.ends_with(end));
            if !(is_rust || is_data) || name.starts_with("docs/") {
                continue;
            }
            let text = read(&path);
            let code: String = if is_rust { without_comments(&text) } else { text };
            let found = code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
            let found: Vec<&str> = found.collect();
            tests.extend(found.windows(2).filter(|pair| is_rust && pair[0] == "fn").map(|pair| pair[1].to_owned()));
            // This file names what does not exist.
            if name != "tests/documents.rs" {
                words.extend(found.into_iter().map(str::to_owned));
            }
            let strings = || code.split('"').skip(1).step_by(2).map(str::to_owned);
            if name.contains("metrics") || name.contains("observability") {
                metrics.extend(strings());
            }
            if name.starts_with("src/operator/") || name == "src/api/crd.rs" {
                reasons.extend(code.split('"').map(str::to_owned));
            }
        }
        let mut fields = BTreeSet::new();
        for path in walk(&root().join("crds")).iter().filter(|path| path.to_string_lossy().contains("mcp.jomcgi.dev")) {
            let crd: Value = serde_yaml::from_str(&read(path)).unwrap_or_default();
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            add_schema(&mut fields, "", schema);
            add_schema(&mut fields, "", &schema["properties"]["spec"]);
        }
        let values = read(&root().join("charts/mcp-oauth-operator/values.yaml"));
        add_values(&mut fields, "", &serde_yaml::from_str(&values).unwrap_or_default());
        let makefile = read(&root().join("Makefile"));
        let targets =
            makefile.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.to_owned()).collect();
        let mut flags = BTreeSet::from(["--help".to_owned(), "--version".to_owned()]);
        let command = Cli::command();
        add_flags(&mut flags, "", &command);
        for subcommand in command.get_subcommands() {
            add_flags(&mut flags, "", subcommand);
            add_flags(&mut flags, &format!("{} ", subcommand.get_name()), subcommand);
            add_flags(&mut flags, &format!("{} ", subcommand.get_name()), &command);
        }
        Self { tests, words, metrics, fields, reasons, flags, targets, files }
    }

    fn check(&self, file: &Path, text: &str) -> Vec<String> {
        let name = file.strip_prefix(root()).unwrap_or(file).display().to_string();
        let mut findings = Vec::new();
        let (mut in_block, mut table) = (false, "");
        for (number, line) in text.lines().enumerate() {
            let mut report = |kind: &str, missing: &str, known: &BTreeSet<String>| {
                let nearest = nearest(missing, known).map(|near| format!("; nearest: `{near}`")).unwrap_or_default();
                findings.push(format!("{name}:{}: {kind} `{missing}` does not exist{nearest}", number + 1));
            };
            if line.trim_start().starts_with("```") {
                in_block = !in_block;
                continue;
            }
            self.check_command(line, &mut report);
            if in_block {
                continue;
            }
            if !line.starts_with('|') {
                table = "";
            }
            let first = line.trim_start_matches('|').split('|').next().unwrap_or_default().trim();
            match first {
                "reason" | "condition" if line.starts_with('|') => table = first,
                _ if !table.is_empty() && first.starts_with('`') => {
                    let word = first.trim_matches('`');
                    if !self.reasons.contains(word) {
                        report(table, word, &self.reasons);
                        continue;
                    }
                }
                _ => {}
            }
            for span in line.split('`').skip(1).step_by(2) {
                self.check_span(file, span, &mut report);
            }
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                check_link(file, link, &mut report);
            }
        }
        findings
    }

    /// The flags of our own commands.
    fn check_command(&self, line: &str, report: &mut impl FnMut(&str, &str, &BTreeSet<String>)) {
        for rest in line.split("mcp-oauth-operator ").skip(1) {
            let command = rest.split(['`', ')', ';', '#', '|']).next().unwrap_or_default();
            let mut words = command.split_whitespace();
            let Some(subcommand) = words.next() else { continue };
            if !self.flags.iter().any(|flag| flag.strip_prefix(subcommand).is_some_and(|rest| rest.starts_with(' '))) {
                continue;
            }
            for word in words.filter(|word| word.starts_with("--")) {
                let flag = word.split('=').next().unwrap_or_default();
                let full = format!("{subcommand} {flag}");
                if !self.flags.contains(&full) && flag != "--help" {
                    report("flag", &full, &self.flags);
                }
            }
        }
    }

    fn check_span(&self, file: &Path, span: &str, report: &mut impl FnMut(&str, &str, &BTreeSet<String>)) {
        let head = span.split(['{', ':', '=', ' ']).next().unwrap_or_default();
        let has_only = |extra: &str, text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c));
        let is_snake = has_only("_", span) && !span.contains(|c: char| c.is_ascii_uppercase());
        if span.starts_with("--") {
            if !self.flags.contains(head) {
                report("flag", head, &self.flags);
            }
        } else if let Some(target) = span.strip_prefix("make ") {
            let target = target.split_whitespace().next().unwrap_or_default();
            if !self.targets.contains(target) {
                report("make target", target, &self.targets);
            }
        } else if head.starts_with("mcp_oauth_proxy_") || head.starts_with("mcp_oauth_operator_") {
            let metric = head.trim_start_matches("mcp_oauth_proxy_").trim_start_matches("mcp_oauth_operator_");
            let ends = ["", "_total", "_seconds", "_bytes", "_info", "_bucket", "_sum", "_count", "_seconds_bucket"];
            let exists = |end| metric.strip_suffix(end).is_some_and(|metric| self.metrics.contains(metric));
            if !ends.into_iter().any(exists) {
                report("metric", head, &self.metrics);
            }
        } else if let Some(prefix) = span.strip_suffix("_*") {
            if is_word(prefix) && !self.tests.iter().any(|test| test.starts_with(&format!("{prefix}_"))) {
                report("test", span, &self.tests);
            }
        } else if let Some((suite @ ("bed" | "standalone"), module)) = span.split_once("::") {
            if !self.files.contains(&format!("e2e/tests/{suite}/{module}.rs")) {
                report("test module", span, &self.files);
            }
        } else if is_snake && span.matches('_').count() >= 2 {
            if !self.tests.contains(span) && !self.words.contains(span) {
                report("test or identifier", span, &self.tests);
            }
        } else if has_only("_-./", span) && (self.is_path(span) || span.ends_with(".rs")) {
            let exists = root().join(span).exists()
                || file.parent().is_some_and(|folder| folder.join(span).exists())
                || (!span.contains('/') && self.files.iter().any(|file| file.ends_with(&format!("/{span}"))));
            if !exists {
                report("path", span, &self.files);
            }
        } else if head.contains('.') && has_only(".[]", head) {
            let path = head.replace("[]", "");
            let is_field = path.split('.').next().is_some_and(|first| self.fields.contains(first));
            if is_field && !self.fields.contains(&path) {
                report("field", &path, &self.fields);
            }
        } else if is_pascal(span) && !self.words.contains(span) {
            report("kind, value or reason", span, &self.words);
        }
    }

    fn is_path(&self, span: &str) -> bool {
        span.split_once('/').is_some_and(|(folder, rest)| FOLDERS.contains(&folder) && !rest.is_empty())
    }
}

fn check_link(file: &Path, link: &str, report: &mut impl FnMut(&str, &str, &BTreeSet<String>)) {
    if link.contains("://") || link.starts_with("mailto:") {
        return;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if path.is_empty() { file.to_owned() } else { file.parent().unwrap_or(file).join(path) };
    if !target.exists() {
        return report("link", link, &BTreeSet::new());
    }
    let anchors: BTreeSet<String> = read(&target)
        .lines()
        .filter_map(|line| line.strip_prefix('#').map(|heading| heading.trim_start_matches('#').trim()))
        .map(|heading| {
            let kept = heading.to_lowercase().replace(' ', "-");
            kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
        })
        .collect();
    if !anchor.is_empty() && !anchors.contains(anchor) {
        report("anchor", link, &anchors);
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn documents() -> Vec<PathBuf> {
    let top = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md"];
    let mut files: Vec<PathBuf> = top.iter().map(|name| root().join(name)).collect();
    files.extend([root().join("docs"), root().join(".github")].iter().flat_map(|folder| walk(folder)));
    files.retain(|file| file.extension().is_some_and(|extension| extension == "md"));
    files
}

/// All files below a folder, except what builds leave there.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if ["target", "node_modules", "corpus", "__pycache__"].iter().any(|name| path.ends_with(name)) {
            continue;
        }
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

fn without_comments(text: &str) -> String {
    let code = |line: &str| {
        let end =
            line.match_indices("//").find(|(at, _)| line[..*at].chars().next_back().is_none_or(char::is_whitespace));
        format!("{}\n", end.map_or(line, |(at, _)| &line[..at]))
    };
    text.lines().map(code).collect()
}

fn add_schema(fields: &mut BTreeSet<String>, prefix: &str, schema: &Value) {
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{prefix}{name}");
        for members in [field, &field["items"], &field["additionalProperties"]] {
            add_schema(fields, &format!("{path}."), members);
        }
        fields.insert(path);
    }
}

fn add_values(fields: &mut BTreeSet<String>, prefix: &str, values: &Value) {
    for (name, value) in values.as_object().into_iter().flatten() {
        add_values(fields, &format!("{prefix}{name}."), value);
        fields.insert(format!("{prefix}{name}"));
    }
}

fn add_flags(flags: &mut BTreeSet<String>, prefix: &str, command: &clap::Command) {
    flags.extend(command.get_arguments().filter_map(clap::Arg::get_long).map(|long| format!("{prefix}--{long}")));
    flags.insert(format!("{prefix}--help"));
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Two words or more, such as `NameConflict`; a word of one hump may be anything.
fn is_pascal(text: &str) -> bool {
    let humps = text.as_bytes().windows(2).filter(|pair| pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase());
    text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(|c| c.is_ascii_alphanumeric())
        && humps.count() > 0
}

/// The known name with the most words in common, and of those the one that is spelled most alike.
fn nearest<'a>(missing: &str, known: &'a BTreeSet<String>) -> Option<&'a String> {
    let words = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !c.is_ascii_alphanumeric()).map(str::to_owned).collect()
    };
    let of_missing = words(missing);
    let candidates = known.iter().filter(|name| name.len() > 2 && name.len() < 200);
    candidates.max_by_key(|name| {
        let of_name = words(name);
        let shared = of_missing.intersection(&of_name).count() * 200 / (of_missing.len() + of_name.len());
        let same_start = missing.chars().zip(name.chars()).take_while(|(a, b)| a == b).count();
        (shared, same_start, usize::MAX - name.len())
    })
}
