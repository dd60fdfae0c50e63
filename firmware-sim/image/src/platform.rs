//! This board as the device under the agent.

use crate::board;
use crate::executor::Board;
use crate::network::Socket;
use crate::persistent::Flash;
use hearthkey_agent::flash::FlashRecords;
use hearthkey_agent::keys::Drbg;
use hearthkey_agent::{ConnectFailed, Instant, Platform, Record, StorageFailed};
use rand_core::RngCore as _;

/// Clock, entropy, storage and network of the board.
pub struct BoardPlatform {
    board: &'static Board,
    random: Drbg,
    records: FlashRecords<Flash>,
}

impl BoardPlatform {
    /// The board with a generator that real entropy seeded.
    pub fn new(board: &'static Board, random: Drbg, records: FlashRecords<Flash>) -> Self {
        Self { board, random, records }
    }

    /// A random number.
    pub fn draw(&mut self) -> u64 {
        self.random.next_u64()
    }
}

impl Platform for BoardPlatform {
    type Transport = Socket;

    fn now(&self) -> Instant {
        Instant::from_millis(board::micros() / 1_000)
    }

    async fn sleep_until(&self, deadline: Instant) {
        self.board.sleep_until(deadline.as_millis().saturating_mul(1_000)).await;
    }

    fn entropy(&mut self, out: &mut [u8]) {
        self.random.fill_bytes(out);
    }

    fn load(&mut self, record: Record, out: &mut [u8]) -> Result<Option<usize>, StorageFailed> {
        self.records.load(record, out)
    }

    fn store(&mut self, record: Record, bytes: &[u8]) -> Result<(), StorageFailed> {
        let stored = self.records.store(record, bytes);
        say!("stored {}: {} changes of the flash since the start", record.name(), self.records.flash().writes);
        stored
    }

    async fn connect(&self, host: &str, port: u16) -> Result<Socket, ConnectFailed> {
        self.board.network.connect(host, port).await
    }
}
