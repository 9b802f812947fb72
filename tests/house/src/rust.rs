//! Reading Rust without its comments and literals, so that a word in a sentence is not taken for code.

/// The same text with every character of a comment or of a literal replaced by a blank; lines stay where they are.
///
/// It knows line, block and nested comments, plain, byte, C and raw strings, and characters as against lifetimes.
#[must_use]
pub fn code_only(source: &str) -> String {
    let characters: Vec<char> = source.chars().collect();
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < characters.len() {
        let rest = &characters[at..];
        let word_before = at > 0 && is_word(characters[at - 1]);
        let skipped = match rest {
            ['/', '/', ..] => line_comment(rest),
            ['/', '*', ..] => block_comment(rest),
            ['"', ..] => quoted(rest, '"'),
            ['r', '"' | '#', ..] if !word_before => raw_string(rest, 1),
            ['b' | 'c', 'r', '"' | '#', ..] if !word_before => raw_string(rest, 2),
            ['\'', '\\', ..] | ['\'', _, '\'', ..] => quoted(rest, '\''),
            _ => 0,
        };
        if skipped == 0 {
            code.push(characters[at]);
            at += 1;
        } else {
            let end = (at + skipped).min(characters.len());
            code.extend(
                characters[at..end]
                    .iter()
                    .map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    code
}

/// Whether a character can be part of an identifier.
#[must_use]
pub fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Where `word` stands by itself in `line`, as byte offsets.
pub fn words<'a>(line: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    line.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| {
            let before = line[..*at].chars().next_back();
            let after = line[at + word.len()..].chars().next();
            !before.is_some_and(is_word) && !after.is_some_and(is_word)
        })
}

fn line_comment(rest: &[char]) -> usize {
    rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
}

fn block_comment(rest: &[char]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            ['/', '*', ..] => {
                depth += 1;
                at += 2;
            }
            ['*', '/', ..] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    break;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            c if c == quote => return at + 1,
            _ => at += 1,
        }
    }
    at
}

/// The length of a raw string whose `#`s or quote begin at `from`; 0 if it is a raw identifier after all.
fn raw_string(rest: &[char], from: usize) -> usize {
    let hashes = rest[from..].iter().take_while(|c| **c == '#').count();
    let open = from + hashes;
    if rest.get(open) != Some(&'"') {
        return 0;
    }
    let mut at = open + 1;
    while at < rest.len() {
        if rest[at] == '"'
            && rest[at + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
        {
            return at + 1 + hashes;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(source: &str) -> String {
        code_only(source)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn comments_and_literals_go() {
        for (source, code) in [
            ("a // unsafe\nb", "a b"),
            ("a /* x /* unsafe */ y */ b", "a b"),
            ("a \"unsafe \\\" more\" b", "a b"),
            ("a r\"unsafe\\\" b", "a b"),
            ("a r#\"un\"safe\"# b", "a b"),
            ("a br##\"x\"# y\"## b", "a b"),
            ("a b\"x\" c", "a b c"),
            ("a '\\'' b '\"' c", "a b c"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            ("r#type bar\"x\"", "r#type bar"),
            ("unterminated \"x", "unterminated"),
            ("unterminated /* x", "unterminated"),
        ] {
            assert_eq!(stripped(source), code, "{source}");
        }
    }

    #[test]
    fn lines_stay_where_they_are() {
        let source = "one\n/* two\nthree */\n\"four\nfive\"\nsix";
        assert_eq!(code_only(source).lines().count(), source.lines().count());
        assert_eq!(code_only(source).lines().nth(5), Some("six"));
    }

    #[test]
    fn words_stand_by_themselves() {
        assert_eq!(
            words("unsafe_code unsafe { } xunsafe", "unsafe").collect::<Vec<_>>(),
            [12]
        );
    }
}
