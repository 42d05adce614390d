//! Connect and disconnect.

use proto::supervisor::{ConnectRequest, DisconnectReply, DisconnectRequest, Failure};
use store::container::Endpoint;
use store::fault;

use super::Service;
use crate::failure;
use crate::networks::Networks;

impl Service {
    pub(super) async fn connect_network(&self, asked: ConnectRequest) -> Result<(), Failure> {
        if self.is_restarting() {
            // The next run reads the spec anyhow.
            return Ok(());
        }
        let (run, guest) = self.running().await?;
        let address =
            match asked.address.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| {
                    failure::own("read the address", text, "not an address of IPv4")
                })?),
            };
        let endpoint = Endpoint {
            network: asked.network,
            aliases: asked.aliases,
            address,
            host: asked.host,
            ..Endpoint::default()
        };
        let networks = run.networks()?;
        fault::point("vm.connect");
        let connected = networks.connect(endpoint, &guest, &run.streams).await;
        self.write_networks(&networks).await;
        fault::point("vm.connected");
        connected.map_err(|failure| self.explain(&run, failure))
    }

    pub(super) async fn disconnect_network(&self, asked: DisconnectRequest) -> DisconnectReply {
        let (left, result) = self.try_disconnect(asked).await;
        DisconnectReply {
            failure: result.err(),
            left,
        }
    }

    /// Whether it is not on the network any more, and what has failed.
    async fn try_disconnect(&self, asked: DisconnectRequest) -> (bool, Result<(), Failure>) {
        if self.is_restarting() {
            return (true, Ok(()));
        }
        let running = self.running().await;
        let running = running.and_then(|(run, guest)| Ok((run.networks()?, run, guest)));
        let (networks, run, guest) = match running {
            Ok(running) => running,
            Err(failure) => return (false, Err(failure)),
        };
        fault::point("vm.disconnect");
        let result = networks
            .disconnect(&asked.network, asked.force, &guest)
            .await;
        self.write_networks(&networks).await;
        fault::point("vm.disconnected");
        let left = !networks.is_on(&asked.network).await;
        (left, result.map_err(|failure| self.explain(&run, failure)))
    }

    /// The state says where the container is now.
    async fn write_networks(&self, networks: &Networks) {
        let Some(attached) = networks.attached().await else {
            return;
        };
        let record = &self.supervision.record;
        record.edit(|state| state.networks = attached);
        record.write_or_log();
    }
}
