//! The last stage towards the client: no credential leaves, and nothing that must come back is touched.

use super::rules::SCRUB_SECRETS;
use super::scrub::{Finding, Scrubber};
use super::{Decision, Note, Refusal, Verdict};
use crate::config::SecretsMode;
use crate::mcp::{Capability, Direction, Envelope, Id, Kind, Raw, Subject, members, method, parse};
use std::ops::Range;

/// Searches what is about to leave: the line, or what an earlier stage made of it. `clean` is the
/// decision when nothing is found.
pub(super) fn scrub(
    scrubber: &Scrubber,
    mode: SecretsMode,
    envelope: &Envelope<'_>,
    subject: Option<&Subject>,
    rewritten: Option<Vec<u8>>,
    clean: Decision,
) -> Decision {
    let line = rewritten.as_deref().unwrap_or(envelope.line);
    let mut found = Vec::new();
    scrubber.json(line, &mut found);
    if !found.is_empty() {
        spare_opaque(&mut found, line, envelope, subject, rewritten.is_some());
    }
    let Decision {
        rule, mut notes, ..
    } = clean;
    if found.is_empty() {
        let verdict = rewritten.map_or(Verdict::Forward, Verdict::Rewrite);
        return Decision {
            verdict,
            rule,
            notes,
        };
    }
    count(&found, &mut notes);
    match mode {
        SecretsMode::Off | SecretsMode::Flag => {
            let verdict = rewritten.map_or(Verdict::Forward, Verdict::Rewrite);
            Decision {
                verdict,
                rule,
                notes,
            }
        }
        SecretsMode::Redact => {
            let verdict = Verdict::Rewrite(scrubber.redact(line, &found));
            Decision {
                verdict,
                rule: Some(SCRUB_SECRETS),
                notes,
            }
        }
        SecretsMode::Refuse => {
            let refused = if matches!(envelope.kind, Kind::Notification { .. }) {
                Decision::drop(SCRUB_SECRETS)
            } else {
                let ran = match subject {
                    Some(subject) if subject.capability == Capability::Tool => {
                        " The tool did run, so check before calling it again."
                    }
                    _ => "",
                };
                let text = format!(
                    "The message held a credential and was withheld (rule {SCRUB_SECRETS}); asking again will not help, ask for the data without credentials.{ran}"
                );
                Decision::refuse(Refusal::new(SCRUB_SECRETS, subject, text))
            };
            Decision { notes, ..refused }
        }
    }
}

/// One note for each detector, in the order of the first finding.
fn count(found: &[Finding], notes: &mut Vec<Note>) {
    for finding in found {
        let seen = notes.iter_mut().find_map(|note| match note {
            Note::Redacted { detector, count } if *detector == finding.detector => Some(count),
            _ => None,
        });
        match seen {
            Some(count) => *count += 1,
            None => notes.push(Note::Redacted {
                detector: finding.detector,
                count: 1,
            }),
        }
    }
}

/// Takes back what was found in tokens that a peer compares byte for byte: ids, cursors, progress
/// tokens and the `requestState` of a round of questions, which is usually sealed by a MAC.
fn spare_opaque(
    found: &mut Vec<Finding>,
    line: &[u8],
    envelope: &Envelope<'_>,
    subject: Option<&Subject>,
    rewritten: bool,
) {
    // Only a line that an earlier stage changed is read again, so that the offsets fit.
    let opaque = if rewritten {
        parse(line, Direction::ToClient)
            .map(|envelope| opaque_spans(&envelope, subject))
            .unwrap_or_default()
    } else {
        opaque_spans(envelope, subject)
    };
    found.retain(|finding| {
        opaque
            .iter()
            .all(|span| finding.span.end <= span.start || finding.span.start >= span.end)
    });
}

fn opaque_spans(envelope: &Envelope<'_>, subject: Option<&Subject>) -> Vec<Range<usize>> {
    let mut spans = Vec::new();
    let id_span = |id: &Id<'_>| id.start..id.start + id.raw.len();
    match &envelope.kind {
        Kind::Request { id, params, .. } => {
            spans.push(id_span(id));
            spare_params(*params, &mut spans);
        }
        Kind::Notification { params, .. } => spare_params(*params, &mut spans),
        Kind::Error { id, .. } => spans.extend(id.as_ref().map(id_span)),
        Kind::Result { id, result } => {
            spans.push(id_span(id));
            let asking = result
                .member("resultType")
                .is_some_and(|kind| kind.as_text().as_deref() == Some("input_required"));
            let listing = subject.is_some_and(|subject| is_list(&subject.method));
            for (key, value) in members(result.text) {
                let spared = match &*key {
                    "requestState" => asking,
                    "nextCursor" => listing,
                    _ => false,
                };
                if spared {
                    spans.push(inside(*result, value));
                }
            }
            spare_meta(*result, &mut spans);
        }
    }
    spans
}

fn is_list(method: &str) -> bool {
    matches!(
        method,
        method::TOOLS_LIST
            | method::PROMPTS_LIST
            | method::RESOURCES_LIST
            | method::RESOURCES_TEMPLATES_LIST
            | method::TASKS_LIST
    )
}

fn spare_params(params: Option<Raw<'_>>, spans: &mut Vec<Range<usize>>) {
    let Some(params) = params else { return };
    for key in ["progressToken", "requestId"] {
        spans.extend(params.member(key).map(|token| token.span()));
    }
    spare_meta(params, spans);
}

/// Ids that the client chose and waits for.
fn spare_meta(holder: Raw<'_>, spans: &mut Vec<Range<usize>>) {
    let Some(meta) = holder.member("_meta") else {
        return;
    };
    for key in ["progressToken", "io.modelcontextprotocol/subscriptionId"] {
        spans.extend(meta.member(key).map(|token| token.span()));
    }
}

fn inside(holder: Raw<'_>, value: Raw<'_>) -> Range<usize> {
    let start = holder.start + value.start;
    start..start + value.text.len()
}
