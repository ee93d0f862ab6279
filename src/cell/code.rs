//! Our own machine code, most of which runs once: what a start has touched is given back.
//!
//! The kernel maps 64 KiB around each page of a file that is touched, and five of our processes start
//! from the same file. The mapping cannot be written and holds what the file holds, so its pages can be
//! dropped at any time (`madvise(2)`, MADV_DONTNEED): those that are needed come back from the page
//! cache, without input or output.

use super::sys;
use std::ops::Range;

/// The executable mapping of this program.
#[derive(Debug)]
pub struct Code {
    range: Range<usize>,
}

impl Code {
    /// Finds it; `None` where `/proc` does not say. To be asked before a cage closes `/proc`.
    #[must_use]
    pub fn find() -> Option<Self> {
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        let here = Self::find as fn() -> Option<Self> as usize;
        maps.lines()
            .find_map(|line| range(line, here))
            .map(|range| Self { range })
    }

    /// Gives back what has been touched of it so far.
    pub fn shed(&self) {
        let length = self.range.end - self.range.start;
        // Kept pages cost memory and nothing else.
        sys::give_back(self.range.start, length).ok();
    }
}

/// The range of a line of `proc_pid_maps(5)`, if it is private code that cannot be written and `here`
/// lies in it.
fn range(line: &str, here: usize) -> Option<Range<usize>> {
    let mut fields = line.split(' ');
    let (start, end) = fields.next()?.split_once('-')?;
    if fields.next()? != "r-xp" {
        return None;
    }
    let number = |text: &str| usize::from_str_radix(text, 16).ok();
    let range = number(start)?..number(end)?;
    range.contains(&here).then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident() -> u64 {
        let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let code = Code::find().unwrap();
        let begin = format!("{:x}-{:x} r-xp", code.range.start, code.range.end);
        let part = text.split(&begin).nth(1).unwrap();
        let rss = part
            .lines()
            .find_map(|line| line.strip_prefix("Rss:"))
            .unwrap();
        rss.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn what_was_touched_is_given_back_and_still_works() {
        // Much code that is needed once.
        assert!(crate::config::json_schema().len() > 1000);
        let before = resident();
        Code::find().unwrap().shed();
        assert!(resident() < before, "{before} KiB before");
    }

    #[test]
    fn only_our_own_code_is_meant() {
        let line = "55d0-55f0 r-xp 00001000 fe:00 1 /bin/x";
        assert_eq!(range(line, 0x55e0), Some(0x55d0..0x55f0));
        assert_eq!(range(line, 0x55f0), None);
        for other in [
            "55d0-55f0 rwxp 0 0 0",
            "55d0-55f0 r--p 0 0 0",
            "nonsense",
            "",
        ] {
            assert_eq!(range(other, 0x55e0), None);
        }
    }
}
