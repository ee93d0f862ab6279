//! What the cell costs: work with many files and many system calls outside, with namespaces and on the
//! floor; the way to an allowed host beside a relay that only copies; the first reply beside bubblewrap.
//!
//! `cargo bench --bench cell` prints tables; `-- work`, `-- egress` and `-- start` one part of them.
//! Everything that is compared takes turns in one run. `-- --check` fails when work in a cell is more than
//! 3 % slower than outside. `COFFERDAM_BENCH=quick` takes a fifth of the time.

#![expect(clippy::print_stdout, reason = "a bench reports on stdout")]

#[path = "../../tests/fake/support/echo.rs"]
mod echo;
mod egress;
mod start;
#[path = "../../tests/fake/support/text.rs"]
mod text;
mod work;

use std::process::ExitCode;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<ExitCode, Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // What runs inside is this very program, so that one build makes all of it.
    match words.as_slice() {
        ["__work", directory] => return work::worker(directory.as_ref()),
        ["__client", to, mib] => {
            egress::client(to.parse()?, mib.parse()?)?;
            return Ok(ExitCode::SUCCESS);
        }
        ["__echo"] => {
            echo::serve()?;
            return Ok(ExitCode::SUCCESS);
        }
        _ => {}
    }
    let quick = std::env::var_os("COFFERDAM_BENCH").is_some_and(|value| value == "quick");
    let named: Vec<&str> = words
        .iter()
        .filter(|word| !word.starts_with("--"))
        .copied()
        .collect();
    let wanted = |part: &str| named.is_empty() || named.contains(&part);
    let mut code = ExitCode::SUCCESS;
    if wanted("work") {
        let within = work::report(if quick { 7 } else { 35 })?;
        if !within && words.contains(&"--check") {
            code = ExitCode::FAILURE;
        }
    }
    if wanted("egress") {
        let (mib, rounds) = if quick { (64, 3) } else { (256, 7) };
        egress::report(mib, rounds)?;
    }
    if wanted("start") {
        start::report(if quick { 7 } else { 31 })?;
    }
    Ok(code)
}

/// The middle one.
fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
