//! Shops that place one order after another until they are told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use crate::client::Client;
use crate::orders::order;

pub struct Load {
    stop: Arc<AtomicBool>,
    shops: Vec<JoinHandle<Result<usize, String>>>,
}

impl Load {
    /// Begins with so many shops at once.
    #[must_use]
    pub fn begin(client: &Client, shops: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let shop = |_| {
            let (client, stop) = (client.clone(), Arc::clone(&stop));
            thread::spawn(move || run(&client, &stop))
        };
        let shops = (0..shops).map(shop).collect();
        Self { stop, shops }
    }

    /// Stops the shops; how many orders they placed.
    ///
    /// # Panics
    /// If one request failed.
    #[must_use]
    pub fn end(mut self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let placed = |shop: JoinHandle<Result<usize, String>>| shop.join().expect("a shop").expect("no request fails");
        self.shops.drain(..).map(placed).sum()
    }
}

/// Dropped, the shops stop by themselves: at the first request that fails, or after the next one.
impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn run(client: &Client, stop: &AtomicBool) -> Result<usize, String> {
    let order = order(&[("TEA", 1)]).to_string();
    let mut placed = 0;
    while !stop.load(Ordering::SeqCst) {
        let answer = client.try_post("/v1/orders", &[], order.as_bytes()).map_err(|error| error.to_string())?;
        if answer.status != 201 {
            return Err(format!("{answer:#?}"));
        }
        placed += 1;
    }
    Ok(placed)
}
