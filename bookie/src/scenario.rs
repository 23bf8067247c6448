//! How the tests of this package run a scenario of the fault matrix.

use std::fmt::Debug;

use geminga_runtime::Mutations;

/// The scenario must pass, and fail without the rule. Each run has a runtime of its own.
pub(crate) fn holds_only_with<M>(rule: M, scenario: impl AsyncFn(Mutations<M>))
where
    M: Copy + PartialEq + Debug,
{
    geminga_runtime::holds_only_with(rule, |mutations| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(scenario(mutations));
    });
}
