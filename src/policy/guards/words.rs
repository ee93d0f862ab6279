//! What a caller is told: what happened and what it may do, never a setting.

use super::ledger::Spent;
use super::repeats::Again;
use super::trim::{Cap, Size};
use crate::mcp::Subject;
use crate::policy::rules::{
    BUDGET_BYTES, BUDGET_CALLS, BUDGET_TOKENS, LIMITS_BREAKER, LIMITS_REPEATS, LIMITS_RESULT, code,
};
use crate::policy::{Refusal, Shape};
use std::time::Duration;

/// Too many calls have failed.
pub(super) fn open(
    subject: &Subject,
    of_tool: bool,
    wait: Duration,
    other: Option<&str>,
) -> Refusal {
    let what = match of_tool {
        true => "This tool has failed too often",
        false => "The server has failed too often",
    };
    let seconds = seconds(wait);
    let instead = other.map_or_else(
        || "use another tool meanwhile or tell the user.".to_owned(),
        |other| format!("meanwhile `{other}` can be used instead."),
    );
    let text = format!(
        "{what} in the last minutes and is not asked for now (rule {LIMITS_BREAKER}); nothing was done. It may be tried again in {seconds} s; {instead}"
    );
    again_after(
        code_of(
            Refusal::new(LIMITS_BREAKER, Some(subject), text),
            code::UNAVAILABLE,
        ),
        Some(wait),
    )
}

/// A budget is used up.
pub(super) fn spent(
    subject: &Subject,
    scope: &str,
    spent: Spent,
    wait: Option<Duration>,
) -> Refusal {
    let (rule, what) = match spent {
        Spent::Calls => (BUDGET_CALLS, "calls"),
        Spent::Bytes => (BUDGET_BYTES, "bytes"),
        Spent::Tokens => (BUDGET_TOKENS, "tokens"),
    };
    let then = match wait {
        Some(wait) => format!("it is renewed in {} s", seconds(wait)),
        None => "calling again will not help, tell the user".to_owned(),
    };
    let text = format!(
        "The budget of {what} of this {scope} is used up (rule {rule}); nothing was done, {then}."
    );
    again_after(
        code_of(Refusal::new(rule, Some(subject), text), code::RATE),
        wait,
    )
}

/// The same call had the same answer too often.
pub(super) fn again(subject: &Subject, again: Again) -> Refusal {
    let text = format!(
        "This very call was made {} times and had the same answer each time, so it was not made again (rule {LIMITS_REPEATS}). Stop repeating it: use the answer that you have, change the arguments, or tell the user what is missing.",
        again.times
    );
    again_after(
        Refusal::new(LIMITS_REPEATS, Some(subject), text),
        Some(again.wait),
    )
}

/// A result is too large, and is nothing that could be cut.
pub(super) fn too_large(subject: &Subject, size: Size, own: Cap) -> Refusal {
    let Size { bytes, tokens } = size;
    let why = match size.fits(own) {
        true => "more than is left of a budget",
        false => "more than a result may have",
    };
    let text = format!(
        "The result has {bytes} bytes, about {tokens} tokens, which is {why}, so it was withheld (rule {LIMITS_RESULT}); the call did run, so do not repeat it unchanged. Ask for less: a narrower query, a filter, fewer fields, or a page."
    );
    code_of(Refusal::new(LIMITS_RESULT, Some(subject), text), code::SIZE)
}

fn code_of(mut refusal: Refusal, code: i32) -> Refusal {
    if refusal.shape != Shape::ToolResult {
        refusal.shape = Shape::Error(code);
    }
    refusal
}

fn again_after(mut refusal: Refusal, wait: Option<Duration>) -> Refusal {
    refusal.retry_after_ms = wait.map(|wait| {
        let ms = wait.as_micros().div_ceil(1000);
        u64::try_from(ms).unwrap_or(u64::MAX)
    });
    refusal
}

fn seconds(wait: Duration) -> u128 {
    wait.as_micros().div_ceil(1_000_000).max(1)
}
