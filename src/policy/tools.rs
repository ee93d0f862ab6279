//! Rules for tools: who may be called, and the settings that a single tool has of its own.
//!
//! A tool that is named exactly is decided by that entry. Otherwise a denied name or pattern wins
//! over an allowed one, compared so that no second spelling passes; then an allowed pattern; then `"*"`.

use super::names::{Glob, fold};
use super::rules::{TOOLS_ALLOW, TOOLS_DENY};
use crate::config::{ToolRule, Tools};
use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct ToolRules {
    default: ToolRule,
    /// Few, so that comparing beats hashing.
    named: BTreeMap<Box<str>, ToolRule>,
    /// Entries with a star, longest first: the more a pattern says, the more it counts for settings.
    patterns: Vec<(Glob, ToolRule)>,
    /// Everything with `allow = false`, folded.
    denied: Vec<Glob>,
    open: bool,
    /// No entry but `"*"` sets anything beside `allow`.
    uniform: bool,
}

impl ToolRules {
    pub(super) fn new(tools: &Tools) -> Self {
        let mut with_star: Vec<_> = tools
            .named
            .iter()
            .filter(|(name, _)| name.contains('*'))
            .collect();
        with_star.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        let denied: Vec<Glob> = tools
            .named
            .iter()
            .filter(|(_, rule)| rule.allow == Some(false))
            .map(|(name, _)| Glob::new(&fold(name)))
            .collect();
        Self {
            open: denied.is_empty() && tools.default.allow != Some(false),
            uniform: tools.named.values().all(|rule| {
                let alone = ToolRule {
                    allow: rule.allow,
                    ..ToolRule::default()
                };
                *rule == alone
            }),
            default: tools.default.clone(),
            named: tools
                .named
                .iter()
                .filter(|(name, _)| !name.contains('*'))
                .map(|(name, rule)| (name.as_str().into(), rule.clone()))
                .collect(),
            patterns: with_star
                .into_iter()
                .map(|(name, rule)| (Glob::new(name), rule.clone()))
                .collect(),
            denied,
        }
    }

    /// True when no tool can be denied.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// The rule that denies the tool; a call without a readable name is denied as soon as any is.
    pub(super) fn denies(&self, name: Option<&str>) -> Option<&'static str> {
        if self.open {
            return None;
        }
        let Some(name) = name else {
            return Some(if self.default.allow == Some(false) {
                TOOLS_ALLOW
            } else {
                TOOLS_DENY
            });
        };
        if let Some(allow) = self.named.get(name).and_then(|rule| rule.allow) {
            return (!allow).then_some(TOOLS_DENY);
        }
        if !self.denied.is_empty() {
            let folded = fold(name);
            if self.denied.iter().any(|glob| glob.matches(&folded)) {
                return Some(TOOLS_DENY);
            }
        }
        let allowed = self
            .patterns
            .iter()
            .any(|(glob, rule)| rule.allow == Some(true) && glob.matches(name));
        (!allowed && self.default.allow == Some(false)).then_some(TOOLS_ALLOW)
    }

    /// One setting of a tool: its own, or that of the longest pattern, or that of `"*"`.
    pub(super) fn setting<T>(
        &self,
        name: &str,
        read: impl Fn(&ToolRule) -> Option<T>,
    ) -> Option<T> {
        if self.uniform {
            return read(&self.default);
        }
        self.named
            .get(name)
            .and_then(&read)
            .or_else(|| {
                self.patterns
                    .iter()
                    .filter(|(glob, _)| glob.matches(name))
                    .find_map(|(_, rule)| read(rule))
            })
            .or_else(|| read(&self.default))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn rules(default: Option<bool>, named: &[(&str, bool)]) -> ToolRules {
        let allow = |allow| ToolRule {
            allow,
            ..ToolRule::default()
        };
        ToolRules::new(&Tools {
            default: allow(default),
            named: named
                .iter()
                .map(|(name, is)| ((*name).to_owned(), allow(Some(*is))))
                .collect(),
        })
    }

    #[test]
    fn without_rules_everything_passes() {
        let rules = rules(None, &[("a", true)]);
        assert!(rules.is_open());
        assert_eq!(rules.denies(Some("b")), None);
        assert_eq!(rules.denies(None), None);
    }

    #[test]
    fn a_denied_tool_has_no_second_spelling() {
        let rules = rules(None, &[("delete_repo", false)]);
        for name in ["delete_repo", "Delete_Repo", "delete_repo ", "ｄelete_repo"] {
            assert_eq!(rules.denies(Some(name)), Some(TOOLS_DENY), "{name}");
        }
        assert_eq!(rules.denies(Some("read_repo")), None);
        assert_eq!(rules.denies(None), Some(TOOLS_DENY));
    }

    #[test]
    fn the_rest_is_denied_by_the_star_and_allowed_by_exact_names_only() {
        let rules = rules(
            Some(false),
            &[("read", true), ("get_*", true), ("get_secret", false)],
        );
        assert_eq!(rules.denies(Some("read")), None);
        assert_eq!(rules.denies(Some("get_issue")), None);
        assert_eq!(rules.denies(Some("Read")), Some(TOOLS_ALLOW));
        assert_eq!(rules.denies(Some("GET_issue")), Some(TOOLS_ALLOW));
        assert_eq!(rules.denies(Some("get_Secret")), Some(TOOLS_DENY));
        assert_eq!(rules.denies(None), Some(TOOLS_ALLOW));
    }

    #[test]
    fn an_exact_name_wins_over_a_denied_pattern() {
        let rules = rules(None, &[("delete_*", false), ("delete_draft", true)]);
        assert_eq!(rules.denies(Some("delete_draft")), None);
        assert_eq!(rules.denies(Some("Delete_draft")), Some(TOOLS_DENY));
    }

    #[test]
    fn settings_fall_back_one_by_one() {
        let seconds = |n| Some(Duration::from_secs(n));
        let rule = |timeout, timeout_total| ToolRule {
            timeout,
            timeout_total,
            ..ToolRule::default()
        };
        let rules = ToolRules::new(&Tools {
            default: rule(seconds(1), seconds(10)),
            named: [
                ("slow_*".to_owned(), rule(seconds(2), None)),
                ("slow_one".to_owned(), rule(None, seconds(30))),
            ]
            .into(),
        });
        assert_eq!(rules.setting("slow_one", |rule| rule.timeout), seconds(2));
        assert_eq!(
            rules.setting("slow_one", |rule| rule.timeout_total),
            seconds(30)
        );
        assert_eq!(
            rules.setting("slow_two", |rule| rule.timeout_total),
            seconds(10)
        );
        assert_eq!(rules.setting("fast", |rule| rule.timeout), seconds(1));
    }
}
