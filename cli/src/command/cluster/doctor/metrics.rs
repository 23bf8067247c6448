//! Metrics as Prometheus reads them, as far as the doctor needs them.

/// One line of the text.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// The metric.
    pub(super) name: String,
    /// What stands in braces.
    pub(super) labels: String,
    /// The number.
    pub(super) value: f64,
}

/// All samples of a page; lines that are none are left out.
pub(super) fn parse(text: &str) -> Vec<Sample> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    // A label may contain blanks and braces; the number is behind the last brace.
    let (metric, value) = match line.rsplit_once('}') {
        Some((metric, value)) => (metric, value),
        None => line.split_once(' ')?,
    };
    let value = value.split_whitespace().next()?.parse().ok()?;
    let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
    Some(Sample { name: name.to_owned(), labels: labels.to_owned(), value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let sample = |name: &str, labels: &str, value| Sample {
            name: name.to_owned(),
            labels: labels.to_owned(),
            value,
        };
        let text = "# HELP a what it is\n# TYPE a gauge\na 1\nb{disk=\"/x y}\",z=\"1\"} 2.5\n\nc{} NaN 17\nd\ne{x=\"1\"} many\n";
        let read = parse(text);
        assert_eq!(read[..2], [sample("a", "", 1.0), sample("b", "disk=\"/x y}\",z=\"1\"", 2.5)]);
        assert_eq!((read.len(), read[2].name.as_str(), read[2].value.is_nan()), (3, "c", true));
    }
}
