//! A progress bar for long work: on a terminal only, and never among records that are printed there.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What the work prints while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prints {
    /// Nothing but a result at the end.
    Result,
    /// Records to standard output.
    Records,
}

/// A bar that counts records, or nothing visible. `total` is not known when reading from a pipe.
pub(crate) fn records(total: Option<u64>, prints: Prints) -> ProgressBar {
    let in_the_way = prints == Prints::Records && std::io::stdout().is_terminal();
    if in_the_way || !std::io::stderr().is_terminal() {
        return ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
    }
    let template = match total {
        Some(_) => "{wide_bar} {human_pos}/{human_len} records, {per_sec}, {eta} left",
        None => "{spinner} {human_pos} records, {per_sec}",
    };
    let style = ProgressStyle::with_template(template).expect("the templates above are valid");
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr()).with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_valid_and_tests_see_no_bar() {
        // Standard error of a test under CI is no terminal; on one, this draws and clears.
        for total in [None, Some(3)] {
            let bar = records(total, Prints::Records);
            bar.inc(1);
            assert_eq!(bar.position(), 1);
            bar.finish_and_clear();
        }
    }
}
