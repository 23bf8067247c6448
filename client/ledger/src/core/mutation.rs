//! Switches that break one rule each, so that the model checker and the simulator can be seen to notice
//! (protocol 8.3). They exist only with the test-only feature `mutations`; without it every rule holds.

/// A rule of the ledger client to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mutation {
    /// S3: be content with one seal reply less than coverage needs.
    SealWithOneLess,
    /// H3: take an empty last fragment for the whole ledger.
    SealFromTheStart,
    /// H15: count an answer that says nothing as a negative.
    CountUnknownAsNegative,
    /// H4: publish who stands in before they have their copies.
    PublishStandInsEarly,
    /// W6: let entries complete while a change of the ensemble is being committed.
    CompleteWhileChanging,
}

/// The rules that are broken; none in production.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Mutations {
    #[cfg(feature = "mutations")]
    broken: Option<Mutation>,
}

impl Mutations {
    /// Breaks one rule.
    #[cfg(feature = "mutations")]
    pub fn only(mutation: Mutation) -> Self {
        Self { broken: Some(mutation) }
    }

    #[cfg(feature = "mutations")]
    pub(crate) fn is(self, mutation: Mutation) -> bool {
        self.broken == Some(mutation)
    }

    #[cfg(not(feature = "mutations"))]
    #[expect(clippy::unused_self, reason = "the same call with and without the feature")]
    pub(crate) fn is(self, _mutation: Mutation) -> bool {
        false
    }
}
