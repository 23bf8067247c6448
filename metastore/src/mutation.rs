//! Rules of the metadata store that a test breaks, to see that it notices.

/// A rule of the metadata store to break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// M8: be content with what any member of etcd has, however far behind it is.
    SerializableReads,
}

/// The rules that are broken; none in production.
pub(crate) type Mutations = geminga_runtime::Mutations<Mutation>;
