//! Escapes characters in untrusted text that could mislead a reader.

use std::fmt::{self, Write};

/// Whether a character is invisible and has an effect: it moves a cursor, ends a line, changes the writing direction, or
/// hides between others.
pub fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// Writes text with deceptive characters as `\u{...}`.
pub struct Escaping<'a>(pub &'a mut dyn Write);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive(is_deceptive) {
            match part.chars().next_back().filter(|last| is_deceptive(*last)) {
                Some(last) => {
                    self.0.write_str(&part[..part.len() - last.len_utf8()])?;
                    write!(self.0, "{}", last.escape_unicode())?;
                }
                None => self.0.write_str(part)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deceptive_characters_are_escaped_and_others_kept() {
        let mut text = String::new();
        write!(Escaping(&mut text), "a\u{1b}[2J\nünï\u{202e}\r").unwrap();
        assert_eq!(text, "a\\u{1b}[2J\\u{a}ünï\\u{202e}\\u{d}");
    }
}
