//! Rules that a test breaks on purpose (protocol 8.3): a part that keeps rules names them in an enum of its own and asks
//! [`Mutations::is`] where it keeps one. Without the test-only feature `mutations` nothing can be broken: the answer is a
//! constant, and the question costs nothing.

#[cfg(not(feature = "mutations"))]
use std::marker::PhantomData;

/// Which of the rules `M` is broken: none in production, at most one in a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mutations<M> {
    #[cfg(feature = "mutations")]
    broken: Option<M>,
    #[cfg(not(feature = "mutations"))]
    rules: PhantomData<M>,
}

impl<M> Default for Mutations<M> {
    /// Every rule holds.
    fn default() -> Self {
        #[cfg(feature = "mutations")]
        return Self { broken: None };
        #[cfg(not(feature = "mutations"))]
        return Self { rules: PhantomData };
    }
}

#[cfg(feature = "mutations")]
impl<M: PartialEq> Mutations<M> {
    /// Breaks one rule.
    pub fn only(rule: M) -> Self {
        Self { broken: Some(rule) }
    }

    /// Whether this rule is broken.
    pub fn is(&self, rule: M) -> bool {
        self.broken.as_ref() == Some(&rule)
    }
}

#[cfg(not(feature = "mutations"))]
impl<M: PartialEq> Mutations<M> {
    /// Whether this rule is broken: it never is.
    #[expect(clippy::unused_self, reason = "the same call with and without the feature")]
    pub fn is(&self, _rule: M) -> bool {
        false
    }
}

/// Runs a scenario twice: it must pass as it is, and fail without the rule. What the failure says is in the captured
/// output of the test.
///
/// # Panics
/// If the scenario fails with every rule, or does not notice that this one is broken.
#[cfg(feature = "mutations")]
pub fn holds_only_with<M>(rule: M, scenario: impl Fn(Mutations<M>))
where
    M: Copy + PartialEq + std::fmt::Debug,
{
    scenario(Mutations::default());
    let without = std::panic::AssertUnwindSafe(|| scenario(Mutations::only(rule)));
    let noticed = std::panic::catch_unwind(without).is_err();
    assert!(noticed, "nothing is noticed when {rule:?} is broken");
}

#[cfg(all(test, feature = "mutations"))]
mod tests {
    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Rule {
        One,
        Another,
    }

    fn scenario(mutations: Mutations<Rule>) {
        assert!(!mutations.is(Rule::One));
    }

    #[test]
    fn a_scenario_that_notices_passes() {
        holds_only_with(Rule::One, scenario);
    }

    #[test]
    #[should_panic(expected = "nothing is noticed")]
    fn a_scenario_that_notices_nothing_fails() {
        holds_only_with(Rule::Another, scenario);
    }

    #[test]
    fn nothing_is_broken_unless_it_is_asked_for() {
        assert!(!Mutations::<Rule>::default().is(Rule::One));
    }
}
