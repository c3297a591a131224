//! Texts with `*`, `?` and variables.

use crate::Request;

/// `*` is any run of characters, `?` any one; `${name}` stands for what the request has under that name, and
/// `${name, 'text'}` for that text where it has nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    has_variables: bool,
}

impl Pattern {
    pub fn new(text: String) -> Self {
        let has_variables = text.contains("${");
        Self { text, has_variables }
    }

    /// Whether a variable is not closed, or its default no text: it could never match, and a denial would be void.
    pub fn is_malformed(&self) -> bool {
        let mut rest = self.text.as_str();
        while let Some(at) = rest.find("${") {
            match rest[at..].find('}') {
                Some(end) if variable(&rest[at + 2..at + end]).is_some() => rest = &rest[at + end..],
                Some(_) | None => return true,
            }
        }
        false
    }

    /// Whether it matches some texts that begin with `prefix` and not others, or might.
    pub fn tells_apart(&self, prefix: &str) -> bool {
        let wild = self.text.find(['*', '?']).unwrap_or(self.text.len());
        let (literal, rest) = self.text.split_at(wild);
        let all = rest == "*" && prefix.starts_with(literal);
        let none = !prefix.starts_with(literal) && !literal.starts_with(prefix)
            || rest.is_empty() && !literal.starts_with(prefix);
        self.has_variables || !(all || none)
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn matches(&self, text: &str, request: &impl Request) -> bool {
        if !self.has_variables {
            return like(self.text.as_bytes(), text.as_bytes(), u8::eq);
        }
        // What is filled in is text, and never a wildcard.
        let Some(pieces) = self.fill(request) else { return false };
        like(&pieces, &literal(text), |a, b| a == b)
    }

    pub fn matches_ignoring_case(&self, text: &str) -> bool {
        like(self.text.as_bytes(), text.as_bytes(), u8::eq_ignore_ascii_case)
    }

    /// The text with its variables replaced, where wildcards are told from characters; `None` where one has no value.
    fn fill(&self, request: &impl Request) -> Option<Vec<u16>> {
        let mut filled = Vec::with_capacity(self.text.len());
        let mut rest = self.text.as_str();
        while let Some(at) = rest.find("${") {
            filled.extend(wild(&rest[..at]));
            let end = rest[at..].find('}')? + at;
            match &rest[at + 2..end] {
                escaped @ ("*" | "?" | "$") => filled.extend(literal(escaped)),
                inside => {
                    let (name, default) = variable(inside)?;
                    let mut value = None;
                    request.values(&name.to_ascii_lowercase(), &mut |found| {
                        value.get_or_insert_with(|| found.to_owned());
                    });
                    filled.extend(literal(value.as_deref().or(default)?));
                }
            }
            rest = &rest[end + 1..];
        }
        filled.extend(wild(rest));
        Some(filled)
    }
}

/// A variable's name, and its default, as in `aws:PrincipalTag/team, 'everybody'`.
fn variable(inside: &str) -> Option<(&str, Option<&str>)> {
    let Some((name, default)) = inside.split_once(',') else { return Some((inside, None)) };
    let quoted = default.trim().strip_prefix('\'')?.strip_suffix('\'')?;
    (!quoted.contains('\'')).then_some((name.trim(), Some(quoted)))
}

/// Characters that only stand for themselves are above all wildcards.
fn literal(text: &str) -> Vec<u16> {
    text.bytes().map(|byte| 0x100 + u16::from(byte)).collect()
}

fn wild(text: &str) -> impl Iterator<Item = u16> {
    text.bytes().map(|byte| match byte {
        b'*' | b'?' => u16::from(byte),
        byte => 0x100 + u16::from(byte),
    })
}

/// Whether a pattern matches, in time bounded by the product of the lengths: on a mismatch only the last `*` grows.
pub fn like<T: Copy + Into<u16>>(pattern: &[T], text: &[T], same: impl Fn(&T, &T) -> bool) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(&wild) if wild.into() == u16::from(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&wild) if wild.into() == u16::from(b'?') || same(&wild, &text[t]) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&wild| wild.into() == u16::from(b'*'))
}

impl Pattern {
    /// Equality, where wildcards are only characters.
    pub fn equals(&self, text: &str, request: &impl Request) -> bool {
        if self.has_variables {
            self.filled(request).is_some_and(|filled| filled == text)
        } else {
            self.text == text
        }
    }

    pub fn equals_ignoring_case(&self, text: &str, request: &impl Request) -> bool {
        match self.has_variables {
            true => self.filled(request).is_some_and(|filled| filled.eq_ignore_ascii_case(text)),
            false => self.text.eq_ignore_ascii_case(text),
        }
    }

    fn filled(&self, request: &impl Request) -> Option<String> {
        let bytes = self.fill(request)?.into_iter().map(|unit| (unit & 0xff) as u8).collect();
        String::from_utf8(bytes).ok()
    }
}
