//! An error with its causes, as one line.

use std::error::Error;

/// The message of an error and of each cause that the text before does not already contain.
pub fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("{text}")]
    struct Failure {
        text: &'static str,
        source: Option<Box<Failure>>,
    }

    #[test]
    fn each_message_of_the_chain_occurs_once() {
        let failure = |text, source: Option<Failure>| Failure { text, source: source.map(Box::new) };
        let root = failure("no route", None);
        let wrapped = failure("cannot connect: no route", Some(root));
        let top = failure("request failed", Some(wrapped));
        assert_eq!(error_chain(&top), "request failed: cannot connect: no route");
    }
}
