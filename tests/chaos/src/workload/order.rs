//! What a client is told by whoever started it: words on its standard input, a line each. When that ends, nobody is there any more.

use std::io::BufRead as _;
use std::str::FromStr;

use tokio::sync::watch;

/// What a client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Stay,
    /// Send with hardly a pause.
    Hurry,
    /// Finish what was begun, and end.
    Leave,
    /// End without a word.
    Vanish,
}

impl Order {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Stay => "stay",
            Self::Hurry => "hurry",
            Self::Leave => "leave",
            Self::Vanish => "vanish",
        }
    }
}

impl FromStr for Order {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let all = [Self::Stay, Self::Hurry, Self::Leave, Self::Vanish];
        let known = all.into_iter().find(|order| order.word() == word);
        known.ok_or_else(|| format!("{word} is no order"))
    }
}

/// The last order of this process. A thread reads them, which ends with the process: reading cannot be given up.
pub(super) fn orders() -> watch::Receiver<Order> {
    let (orders, last) = watch::channel(Order::Stay);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            match line.map_err(|error| error.to_string()).and_then(|word| word.parse()) {
                Ok(order) => drop(orders.send_replace(order)),
                Err(error) => {
                    println!("{error}");
                    break;
                }
            }
        }
        // An order to leave stands.
        orders.send_if_modified(|order| {
            let alone = *order != Order::Leave;
            if alone {
                *order = Order::Vanish;
            }
            alone
        });
    });
    last
}

/// Waits until the client is told to end.
pub(super) async fn told(orders: &mut watch::Receiver<Order>) -> Order {
    let told = orders.wait_for(|order| matches!(order, Order::Leave | Order::Vanish)).await;
    told.map_or(Order::Vanish, |order| *order)
}
