use super::*;
use std::collections::HashSet;

fn real(text: &str, table: &str) -> Vec<toml::Table> {
    let parsed: toml::Table = toml::from_str(text).unwrap();
    let entries = parsed[table].as_array().unwrap();
    entries
        .iter()
        .map(|e| e.as_table().unwrap().clone())
        .collect()
}

#[test]
fn our_reader_reads_what_toml_says() {
    for (text, table) in FILES
        .iter()
        .map(|f| (*f, "detector"))
        .chain([(NAMES, "name")])
    {
        let ours: Vec<_> = entries(text).collect();
        let real = real(text, table);
        assert_eq!(ours.len(), real.len());
        for (ours, real) in ours.iter().zip(&real) {
            assert_eq!(ours.0.len(), real.len());
            for (key, value) in &ours.0 {
                assert_eq!(real[*key].as_str(), Some(*value));
            }
        }
    }
}

#[test]
fn every_entry_is_loaded_and_says_why() {
    let written: usize = FILES.iter().map(|f| entries(f).count()).sum();
    assert_eq!(table().detectors.len(), written);
    assert_eq!(table().names.len(), entries(NAMES).count());
    for entry in FILES.iter().flat_map(|f| entries(f)) {
        assert!(
            entry.value("why").is_some_and(|why| why.len() > 8),
            "{entry:?}"
        );
    }
    let words: HashSet<_> = table().names.iter().map(|(word, _)| word).collect();
    assert_eq!(words.len(), table().names.len(), "a word has two roles");
}

#[test]
fn names_fit_into_placeholders() {
    for detector in &table().detectors {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        assert!(detector.name.bytes().all(fits), "{}", detector.name);
    }
}

#[test]
fn short_dots_are_the_ones_that_are_written_out() {
    let short = table().dotted.iter().filter(|d| d.key.is_none());
    let prefixes: Vec<_> = short
        .map(|d| table().detectors[usize::from(d.detector)].shape.prefix)
        .collect();
    assert_eq!(prefixes, [":AA", "Q~"]);
}
