//! Requests of Kafka clients: any API in any version that is served.

#[cfg(test)]
mod answers;
mod made;
mod pairs;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use geminga_serving::kafka;

use crate::Target;
use made::Source;
use pairs::served;

/// A frame without its length.
pub(crate) const REQUEST: Target = Target { name: "kafka_request", run: request, seeds: requests };
/// A request that another codec makes of the input, which chooses its fields; the first two bytes say which API and version.
pub(crate) const MADE: Target = Target { name: "kafka_made", run: made, seeds: choices };

fn request(bytes: &[u8]) {
    // Whatever it says, it ends.
    let _ = kafka::understands(Bytes::copy_from_slice(bytes));
}

/// The request that says least, and one with an element in each array, of each API in its lowest and its highest version.
fn requests() -> Vec<Bytes> {
    let (mut all, served) = (Vec::new(), served());
    let of_each = served.chunk_by(|(one, _), (next, _)| one.key == next.key);
    for (pair, version) in of_each.flat_map(|of| [of.first(), of.last()]).flatten() {
        let version = *version;
        all.extend(pair.least(version).filter(|frame| kafka::understands(frame.clone())));
        all.extend(pair.make(version, Source::of(&[])).map(|made| made.frame));
    }
    assert!(all.iter().all(|frame| kafka::understands(frame.clone())), "seeds are requests");
    all
}

fn made(bytes: &[u8]) {
    let Some((which, choices)) = bytes.split_first_chunk() else { return };
    let all = served();
    let (pair, version) = &all[usize::from(u16::from_be_bytes(*which)) % all.len()];
    if let Some(made) = pair.make(*version, Source::of(choices)) {
        pair.agree(*version, &made);
    }
}

fn choices() -> Vec<Bytes> {
    let of = |which: usize| {
        let which = u16::try_from(which).expect("a few hundred");
        [&which.to_be_bytes()[..], &[160; 40], &[0; 40]].concat().into()
    };
    (0..served().len()).step_by(5).map(of).collect()
}
