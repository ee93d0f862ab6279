//! Names as rules compare them: exact where a rule allows, folded where it denies.
//!
//! A denied name must not be reachable by a second spelling, so deny lists compare what is left
//! after compatibility forms (NFKC), letter case, invisible characters and outer blanks are gone.
//! An allow list is the other way round: only the exact characters pass, and whatever is odd stays out.

use crate::config::NameRules;
use std::borrow::Cow;
use unicode_normalization::UnicodeNormalization;

/// The form of a name in which two spellings of it are equal.
///
/// Free of allocation for plain lower-case ASCII, which nearly every real name is.
#[must_use]
pub(crate) fn fold(name: &str) -> Cow<'_, str> {
    if name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase())
    {
        return Cow::Borrowed(name);
    }
    // Upper case first: it maps `ß` to `SS` and the dotless `ı` to `I`, which lower case alone leaves.
    let folded: String = name
        .nfkc()
        .filter(|c| !is_invisible(*c))
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .nfkc()
        // U+0307 is what lower case leaves of the dotted capital `İ`.
        .filter(|c| !is_invisible(*c) && *c != '\u{307}')
        .collect();
    Cow::Owned(folded.trim().to_owned())
}

/// Controls and the characters with the property `Default_Ignorable_Code_Point` (Unicode 16,
/// `DerivedCoreProperties.txt`): nobody sees them, and many programs drop them.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(u32::from(c),
            0xAD | 0x34F | 0x61C | 0x115F..=0x1160 | 0x17B4..=0x17B5 | 0x180B..=0x180F
            | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x206F | 0x3164 | 0xFE00..=0xFE0F
            | 0xFEFF | 0xFFA0 | 0xFFF0..=0xFFF8 | 0x1BCA0..=0x1BCA3 | 0x1D173..=0x1D17A
            | 0xE0000..=0xE0FFF)
}

/// A pattern in which `*` stands for any run of characters, also an empty one.
#[derive(Debug, Clone)]
pub(super) struct Glob {
    /// The literal pieces between the stars; one piece means that there is no star.
    pieces: Box<[Box<str>]>,
}

impl Glob {
    pub(super) fn new(pattern: &str) -> Self {
        Self {
            pieces: pattern.split('*').map(Into::into).collect(),
        }
    }

    /// True for a lone `*`, which means everything, however it is written.
    pub(super) fn is_everything(&self) -> bool {
        self.pieces.len() > 1 && self.pieces.iter().all(|piece| piece.is_empty())
    }

    /// Linear in the name: each piece is taken at its first place, which is enough for `*` alone.
    pub(super) fn matches(&self, name: &str) -> bool {
        let Some((first, rest)) = self.pieces.split_first() else {
            return name.is_empty();
        };
        let Some(mut left) = name.strip_prefix(&**first) else {
            return false;
        };
        let Some((last, middle)) = rest.split_last() else {
            return left.is_empty();
        };
        for piece in middle {
            match left.find(&**piece) {
                Some(at) => left = left.get(at + piece.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        left.ends_with(&**last)
    }
}

/// Which list of a pair said no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Denied {
    /// A pattern of the deny list matched.
    ByDeny,
    /// There is an allow list and nothing in it matched.
    ByAllow,
}

/// An allow list and a deny list of plain names (methods, prompts).
#[derive(Debug, Clone, Default)]
pub(super) struct NameList {
    allow: Option<Box<[Glob]>>,
    deny: Box<[Glob]>,
}

impl NameList {
    pub(super) fn new(rules: &NameRules) -> Self {
        Self {
            allow: rules
                .allow
                .as_ref()
                .map(|list| list.iter().map(|pattern| Glob::new(pattern)).collect()),
            deny: rules
                .deny
                .iter()
                .map(|pattern| Glob::new(&fold(pattern)))
                .collect(),
        }
    }

    /// True when no name can be denied, so that nobody needs to look for one.
    pub(super) fn is_open(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty()
    }

    /// True when a name that cannot be read has to be denied.
    pub(super) fn is_closed(&self) -> bool {
        self.allow.is_some()
    }

    pub(super) fn denies(&self, name: &str) -> Option<Denied> {
        if self.is_open() {
            return None;
        }
        if !self.deny.is_empty() {
            let folded = fold(name);
            if self.deny.iter().any(|glob| glob.matches(&folded)) {
                return Some(Denied::ByDeny);
            }
        }
        match &self.allow {
            Some(allow) if !allow.iter().any(|glob| glob.matches(name)) => Some(Denied::ByAllow),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_names_fold_without_allocation() {
        assert!(matches!(fold("delete_repo"), Cow::Borrowed(_)));
    }

    #[test]
    fn every_second_spelling_folds_to_the_same_name() {
        for spelling in [
            "Delete_Repo",
            "DELETE_REPO",
            " delete_repo\t",
            "delete_repo\u{200b}",
            "del\u{ad}ete_repo",
            "\u{feff}delete_repo",
            "ｄｅｌｅｔｅ＿ｒｅｐｏ",
            "𝐝elete_repo",
            "delete_repo\u{0}",
            "d\u{2060}elete_repo",
            "delete_repo\u{e0041}",
        ] {
            assert_eq!(fold(spelling), "delete_repo", "{spelling:?}");
        }
        assert_eq!(fold("LİST"), "list");
        assert_eq!(fold("lıst"), "list");
        assert_eq!(fold("\u{212a}ey"), "key");
        assert_eq!(fold("straße"), fold("STRASSE"));
        assert_eq!(fold("ﬁle"), "file");
    }

    #[test]
    fn globs() {
        for (pattern, name, hit) in [
            ("*", "", true),
            ("*", "anything", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "a", true),
            ("a*", "ab", true),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*a", "a", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("**", "x", true),
            ("", "", true),
            ("", "x", false),
            ("*ab*ab", "abab", true),
            ("*ab*ab", "xab", false),
        ] {
            assert_eq!(Glob::new(pattern).matches(name), hit, "{pattern} on {name}");
        }
    }

    fn list(allow: Option<&[&str]>, deny: &[&str]) -> NameList {
        NameList::new(&NameRules {
            allow: allow.map(|list| list.iter().map(ToString::to_string).collect()),
            deny: deny.iter().map(ToString::to_string).collect(),
        })
    }

    #[test]
    fn deny_folds_and_allow_does_not() {
        let deny = list(None, &["Delete_*"]);
        assert_eq!(deny.denies("DELETE_repo"), Some(Denied::ByDeny));
        assert_eq!(deny.denies("read"), None);
        let allow = list(Some(&["read"]), &[]);
        assert_eq!(allow.denies("read"), None);
        assert_eq!(allow.denies("Read"), Some(Denied::ByAllow));
        assert_eq!(allow.denies("read "), Some(Denied::ByAllow));
        let both = list(Some(&["*"]), &["secret"]);
        assert_eq!(both.denies("sEcret"), Some(Denied::ByDeny));
    }

    proptest! {
        #[test]
        fn folding_twice_changes_nothing(name in "\\PC{0,24}") {
            let once = fold(&name).into_owned();
            prop_assert_eq!(fold(&once).into_owned(), once);
        }

        #[test]
        fn a_glob_agrees_with_the_naive_matcher(pattern in "[ab*]{0,6}", name in "[ab]{0,8}") {
            fn naive(pattern: &[u8], name: &[u8]) -> bool {
                match pattern.split_first() {
                    None => name.is_empty(),
                    Some((b'*', rest)) => (0..=name.len()).any(|at| naive(rest, &name[at..])),
                    Some((byte, rest)) => name.split_first()
                        .is_some_and(|(head, tail)| head == byte && naive(rest, tail)),
                }
            }
            prop_assert_eq!(
                Glob::new(&pattern).matches(&name),
                naive(pattern.as_bytes(), name.as_bytes())
            );
        }
    }
}
