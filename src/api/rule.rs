//! The types of the [rules](super::rules): each rule is CEL for the API server, a message and a function.

use std::collections::BTreeMap;

use kube::core::Rule as SchemaRule;
use regex_lite::Regex;
use serde_json::{Value, json};
use thiserror::Error;
use url::Url;

/// A rule about one string. All conditions must hold.
#[derive(Debug)]
pub struct TextRule {
    pub(super) conditions: &'static [Condition],
    pub(super) message: &'static str,
}

/// Patterns have the syntax that RE2 (CEL) and the `regex` crate share, and contain no apostrophe.
#[derive(Debug)]
pub(super) enum Condition {
    Matches(&'static str),
    Excludes(&'static str),
    /// Strings that match the first pattern must also match the second.
    Implies(&'static str, &'static str),
    Url(fn(&str, &Url) -> bool),
}
use Condition::{Excludes, Implies, Matches};

impl TextRule {
    pub fn message(&self) -> &'static str {
        self.message
    }

    pub fn holds(&self, text: &str) -> bool {
        // An invalid pattern matches nothing; a test compiles all of them.
        let matches = |pattern| Regex::new(pattern).is_ok_and(|regex| regex.is_match(text));
        self.conditions.iter().all(|condition| match condition {
            Matches(pattern) => matches(pattern),
            Excludes(pattern) => !matches(pattern),
            Implies(premise, pattern) => !matches(premise) || matches(pattern),
            Condition::Url(check) => Url::parse(text).is_ok_and(|url| check(text, &url)),
        })
    }

    /// The rule about the expression `subject`.
    pub(super) fn cel(&self, subject: &str) -> String {
        let cel = |condition: &Condition| match condition {
            Matches(pattern) => format!("{subject}.matches(r'{pattern}')"),
            Excludes(pattern) => format!("!{subject}.matches(r'{pattern}')"),
            Implies(premise, pattern) => {
                format!("(!{subject}.matches(r'{premise}') || {subject}.matches(r'{pattern}'))")
            }
            Condition::Url(_) => format!("isURL({subject})"),
        };
        self.conditions.iter().map(cel).collect::<Vec<_>>().join(" && ")
    }

    /// For fields that are not of a [text type](super::text).
    pub(super) fn schema(&self, subject: &str) -> SchemaRule {
        SchemaRule::new(self.cel(subject)).message(self.message)
    }

    /// For the keys of a map.
    pub(super) fn keys_schema(&self) -> SchemaRule {
        SchemaRule::new(format!("self.all(key, {})", self.cel("key"))).message(self.message)
    }

    pub(super) fn check_keys<V>(&self, field: &'static str, map: &BTreeMap<String, V>) -> Result<(), BrokenRule> {
        if map.keys().all(|key| self.holds(key)) { Ok(()) } else { Err(BrokenRule { field, message: self.message }) }
    }

    pub(super) fn json(&self) -> Value {
        json!({"rule": self.cel("self"), "message": self.message})
    }
}

/// A rule about several fields.
#[derive(Debug)]
pub struct ObjectRule<T: ?Sized> {
    pub(super) cel: &'static str,
    pub(super) message: &'static str,
    pub(super) holds: fn(&T) -> bool,
}

/// A rule is broken; the message says what to write instead.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{field}: {message}")]
pub struct BrokenRule {
    field: &'static str,
    message: &'static str,
}

impl<T: ?Sized> ObjectRule<T> {
    pub(super) fn schema(&self) -> SchemaRule {
        SchemaRule::new(self.cel).message(self.message)
    }

    pub fn check(&self, field: &'static str, value: &T) -> Result<(), BrokenRule> {
        if (self.holds)(value) { Ok(()) } else { Err(BrokenRule { field, message: self.message }) }
    }
}
