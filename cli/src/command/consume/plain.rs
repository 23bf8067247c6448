//! Reading all partitions without a group: nothing is committed.

use geminga_client::{Client, ReaderConfig};

use super::{Args, Bounds, Printer};
use crate::client::interrupted;
use crate::exit::Failure;

/// Prints from the chosen start on, until the end where there is one.
pub(super) async fn consume(
    client: &Client,
    args: &Args,
    bounds: Bounds,
    mut printer: Printer,
) -> Result<(), Failure> {
    let end = args.until_end.then(|| bounds.end());
    let starts = if args.from_beginning { bounds.earliest } else { bounds.latest };
    let mut reader = client.reader(&args.topic, starts, ReaderConfig::default());
    while !end.as_ref().is_some_and(|end| end.reached(&reader.positions())) {
        let records = tokio::select! {
            records = reader.next() => records?,
            interrupted = interrupted() => return Err(interrupted),
        };
        let stop = end.as_ref().and_then(|end| end.of(records.from.partition));
        printer.add(&records, stop)?;
        printer.flush()?;
    }
    printer.bar.finish_and_clear();
    Ok(())
}
