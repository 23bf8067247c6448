//! Classic members at their coordinator.
