//! `docs/` is a book: every page stands in its summary, and every link of a page, and of the texts beside it, leads somewhere, those of pages within the book.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const SUMMARY: &str = "docs/SUMMARY.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn is_page(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "md")
}

/// All pages of the book, and what else people read first.
fn pages(root: &Path) -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root.join("docs")).expect("docs/ is there");
    let mut pages: Vec<_> =
        docs.map(|entry| entry.expect("an entry").path()).filter(|p| is_page(p)).collect();
    pages.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root.join(name)));
    pages.sort();
    pages
}

/// Lines that are no code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// What links lead to.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(text) {
        // What stands between backquotes is code.
        let words: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
        let ends = words.split("](").skip(1);
        links.extend(ends.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())));
    }
    links
}

/// Where links into a page may lead, as both the book and the repository make them of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut anchors = BTreeSet::new();
    for line in prose(text) {
        let title = line.trim_start_matches('#');
        if title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let title = title.trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let times = seen.entry(slug.clone()).or_default();
        anchors.insert(if *times == 0 { slug } else { format!("{slug}-{times}") });
        *times += 1;
    }
    anchors
}

#[test]
fn docs_every_page_is_in_the_book() {
    let root = root();
    let named = links(&read(&root.join(SUMMARY)));
    let mut once: BTreeSet<&str> = BTreeSet::new();
    for page in &named {
        assert!(once.insert(page), "{page} stands in {SUMMARY} twice");
    }
    let docs = root.join("docs");
    for page in pages(&root).iter().filter(|page| page.parent() == Some(&docs)) {
        let name = page.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(name == "SUMMARY.md" || once.remove(name), "{name} is not in {SUMMARY}");
    }
    assert!(once.is_empty(), "{SUMMARY} names pages that are not there: {once:?}");
    let settings: toml::Table = read(&docs.join("book.toml")).parse().expect("TOML");
    assert_eq!(settings["book"]["src"].as_str(), Some("."), "the pages are where links point");
}

#[test]
fn docs_every_link_leads_somewhere() {
    let root = root();
    let docs = root.join("docs");
    let mut wrong = Vec::new();
    for page in pages(&root) {
        let text = read(&page);
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("a directory").join(file),
            };
            // What is not in the book leads nowhere there.
            let of_book = page.starts_with(&docs);
            let there = match anchor {
                _ if of_book && !(is_page(&target) && target.parent() == Some(&docs)) => false,
                "" => target.exists(),
                anchor => target.is_file() && anchors(&read(&target)).contains(anchor),
            };
            if !there {
                wrong
                    .push(format!("{}: {link}", page.strip_prefix(&root).expect("ours").display()));
            }
        }
    }
    assert!(wrong.is_empty(), "links that lead nowhere:\n{}", wrong.join("\n"));
}

/// Sources whose comments cite rules of the protocol.
const CITING: &[&str] = &["bookie", "client", "metastore", "serving", "tests/model", "tests/sim"];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
}

/// The rules that comments name, such as `W6`, and the sections, such as `protocol 7.9`.
fn cited(code: &str) -> BTreeSet<String> {
    let comments = code.lines().filter_map(|line| line.split_once("//")).map(|(_, said)| said);
    let comments: String = comments.flat_map(|said| [said, " "]).collect();
    let words = comments.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
    let words: Vec<&str> =
        words.map(|word| word.trim_matches('.')).filter(|w| !w.is_empty()).collect();
    let is_rule = |word: &&str| {
        let number = word.trim_start_matches(|c: char| c.is_ascii_uppercase());
        let family = &word[..word.len() - number.len()];
        let known =
            ["M", "D", "K", "W", "RD", "F", "RC", "A", "G", "T", "H", "I"].contains(&family);
        known && number.trim_end_matches('b').parse::<u8>().is_ok()
    };
    let rules = words.iter().copied().filter(is_rule).map(str::to_owned);
    let sections = words.windows(2).filter(|two| two[0] == "protocol" && two[1].contains('.'));
    rules.chain(sections.map(|two| format!("### {} ", two[1]))).collect()
}

#[test]
fn docs_protocol_has_every_rule_that_is_cited() {
    let (root, mut files) = (root(), Vec::new());
    CITING.iter().for_each(|dir| sources(&root.join(dir), &mut files));
    let code: String = files.iter().map(|file| read(file)).collect();
    let page = read(&root.join("docs/protocol.md"));
    let cited = cited(&code);
    assert!(cited.contains("W6") && cited.contains("### 7.9 "), "{cited:?}");
    let missing: Vec<_> = cited
        .iter()
        .filter(|rule| match rule.starts_with('#') {
            true => !page.contains(rule.as_str()),
            false => {
                !page.contains(&format!("**{rule}**")) && !page.contains(&format!("| {rule} |"))
            }
        })
        .collect();
    assert!(missing.is_empty(), "cited in the code and not in docs/protocol.md: {missing:?}");
}

#[test]
fn links_and_anchors_are_read() {
    let text = "# A `b`: C & d\n## Same\n## Same\n```\n# not [x](y)\n```\n[a](b.md#c), `[x](y)` ![d](e.png)\n#no\n";
    assert_eq!(links(text), ["b.md#c", "e.png"]);
    let anchors: Vec<_> = anchors(text).into_iter().collect();
    assert_eq!(anchors, ["a-b-c--d", "same", "same-1"]);
}
