//! A wrapper with one planted defect, so that the suites prove that they would see it.
//!
//! `crooked DEFECT -- CMD…`: `none`, `reorder` (keys), `number` (spelling), `drop` (the 7th line),
//! `twice` (the 7th line), `swap` (an id), `late` (notifications behind), `exit` (wrong code),
//! `silent` (answers nothing once the server is gone, but lives on for a moment).

use serde_json::Value;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};

fn main() -> io::Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some((defect, [dashes, program, rest @ ..])) = args.split_first() else {
        return Err(io::Error::other("usage: crooked DEFECT -- CMD..."));
    };
    assert_eq!(dashes, "--", "usage: crooked DEFECT -- CMD...");
    let mut child = Command::new(program)
        .args(rest)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("no pipes"));
    };
    std::thread::spawn(move || {
        for line in io::stdin().lock().split(b'\n').map_while(Result::ok) {
            if input
                .write_all(&[&line, b"\n".as_slice()].concat())
                .is_err()
            {
                break;
            }
        }
    });
    let mut held: Option<Vec<u8>> = None;
    for (at, line) in BufReader::new(output)
        .split(b'\n')
        .map_while(Result::ok)
        .enumerate()
    {
        let text = String::from_utf8_lossy(&line).into_owned();
        let seventh = at == 6;
        let out = match defect.as_str() {
            "reorder" => serde_json::from_str::<Value>(&text).map_or(text, |value| {
                let mut keys: Vec<_> = value
                    .as_object()
                    .cloned()
                    .unwrap_or_default()
                    .into_iter()
                    .collect();
                keys.reverse();
                Value::Object(keys.into_iter().collect()).to_string()
            }),
            "number" => text.replace("1.0,", "1,").replace("1.50", "1.5"),
            "drop" if seventh => continue,
            "twice" if seventh => format!("{text}\n{text}"),
            "swap" if seventh => text.replacen("\"id\":", "\"id\":9", 1),
            "late" if text.contains("\"method\"") && held.is_none() => {
                held = Some(line);
                continue;
            }
            _ => text,
        };
        let mut stdout = io::stdout().lock();
        stdout.write_all(out.as_bytes())?;
        stdout.write_all(b"\n")?;
        if let Some(line) = held.take_if(|_| !out.contains("\"method\"")) {
            stdout.write_all(&line)?;
            stdout.write_all(b"\n")?;
        }
        stdout.flush()?;
    }
    let code = child.wait()?.code().unwrap_or(1);
    let code = if defect == "exit" { code + 1 } else { code };
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}
