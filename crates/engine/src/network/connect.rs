//! Putting containers on networks and taking them off, whether they run or not.

use proto::supervisor as wire;
use proto::supervisor::Failure;
use proto::supervisor::failure::Kind as FailureKind;
use store::container::{Container, Endpoint, Spec};
use store::events::{self, Event, Kind};
use store::fault;

use crate::container::{check_endpoint, check_networks};
use crate::supervisor::{self, Found};
use crate::{Engine, Error};

impl Engine {
    /// Puts a container on a further network, beside those that it is on: as `endpoint` says, whose network may be named by the first
    /// digits of its id. One that runs is there when this returns, and it stays there when it is started again.
    ///
    /// # Errors
    /// No such network or container, [`Error::Connected`], an address that the network has not or that somebody has; then nothing is
    /// changed.
    pub async fn connect_network(&self, container: &str, endpoint: Endpoint) -> Result<(), Error> {
        let network = self.network(&endpoint.network)?;
        let mut endpoint = Endpoint {
            network: network.spec().name.clone(),
            ..endpoint
        };
        check_endpoint(&self.root, &mut endpoint)?;
        let mut container = self.container(container)?;
        let name = container.spec().name.clone();
        let mut checked = Ok(());
        container.rewrite_spec(|spec| {
            checked = add(spec, &endpoint);
        })?;
        checked?;
        fault::point("connect.spec-written");
        if let Err(error) = tell_connect(&container, &endpoint).await {
            // What it runs with is what it says.
            container.rewrite_spec(|spec| remove(spec, &endpoint.network))?;
            return Err(error);
        }
        fault::point("connect.told");
        tracing::debug!(container = name, network = endpoint.network, "connected");
        self.note(&container, "connect", &network.spec().id, &endpoint.network);
        Ok(())
    }

    /// Takes a container off a network. With `force`, one that runs is taken off even when its guest can't be told.
    ///
    /// # Errors
    /// No such container, [`Error::NotConnected`]; the guest's reason: then nothing is changed. Ports that can't be published on the
    /// network that leads out now: then it is done, and they are published no more.
    pub async fn disconnect_network(
        &self,
        network: &str,
        container: &str,
        force: bool,
    ) -> Result<(), Error> {
        let mut container = self.container(container)?;
        // One that was removed meanwhile can still be left.
        let (network, id) = match self.network(network) {
            Ok(network) => (network.spec().name.clone(), network.spec().id.clone()),
            Err(error) if !is_on(container.spec(), network) => return Err(error),
            Err(_) => (network.to_owned(), String::new()),
        };
        let mut before = None;
        container.rewrite_spec(|spec| {
            before = is_on(spec, &network).then(|| spec.networks.clone());
            remove(spec, &network);
        })?;
        let Some(before) = before else {
            return Err(Error::NotConnected {
                container: container.spec().name.clone(),
                network,
            });
        };
        fault::point("disconnect.spec-written");
        let asked = wire::DisconnectRequest {
            network: network.clone(),
            force,
        };
        let result = tell_disconnect(&container, asked).await;
        fault::point("disconnect.told");
        if let Err((error, left)) = result {
            if !left {
                let place = before.iter().position(|there| there.network == network);
                container.rewrite_spec(|spec| {
                    let place = place.unwrap_or(0).min(spec.networks.len());
                    if let Some(endpoint) = before.iter().find(|there| there.network == network)
                        && !is_on(spec, &network)
                    {
                        spec.networks.insert(place, endpoint.clone());
                    }
                })?;
            }
            return Err(error);
        }
        self.note(&container, "disconnect", &id, &network);
        Ok(())
    }

    fn note(&self, container: &Container, action: &str, id: &str, network: &str) {
        let event = Event::now(Kind::Network, action, id)
            .with("container", container.id())
            .with("name", network);
        events::emit(&self.root, &event);
    }
}

fn is_on(spec: &Spec, network: &str) -> bool {
    spec.networks.iter().any(|there| there.network == network)
}

fn add(spec: &mut Spec, endpoint: &Endpoint) -> Result<(), Error> {
    if is_on(spec, &endpoint.network) {
        return Err(Error::Connected {
            container: spec.name.clone(),
            network: endpoint.network.clone(),
        });
    }
    let mut networks = spec.networks.clone();
    networks.push(endpoint.clone());
    check_networks(&networks)?;
    spec.networks = networks;
    Ok(())
}

fn remove(spec: &mut Spec, network: &str) {
    spec.networks.retain(|there| there.network != network);
}

/// Tells the supervisor, if there is one.
async fn tell_connect(container: &Container, endpoint: &Endpoint) -> Result<(), Error> {
    let Found::Alive(client) = supervisor::find(container).await? else {
        return Ok(());
    };
    let asked = wire::ConnectRequest {
        network: endpoint.network.clone(),
        aliases: endpoint.aliases.clone(),
        address: endpoint
            .address
            .map(|address| address.to_string())
            .unwrap_or_default(),
        host: endpoint.host,
    };
    let mut rpc = client.rpc.clone();
    match client.call("connect", rpc.connect(asked)).await?.failure {
        None => Ok(()),
        Some(failure) => Err(refused(container, failure)),
    }
}

/// As above; the failure comes with whether it has left all the same.
async fn tell_disconnect(
    container: &Container,
    asked: wire::DisconnectRequest,
) -> Result<(), (Error, bool)> {
    let found = supervisor::find(container).await;
    let Found::Alive(client) = found.map_err(|error| (error, false))? else {
        return Ok(());
    };
    let mut rpc = client.rpc.clone();
    let reply = client.call("disconnect", rpc.disconnect(asked)).await;
    let reply = reply.map_err(|error| (error, false))?;
    match reply.failure {
        None => Ok(()),
        Some(failure) => Err((refused(container, failure), reply.left)),
    }
}

fn refused(container: &Container, failure: Failure) -> Error {
    match failure.kind() {
        FailureKind::VmLost => supervisor::failure(&container.spec().name, failure),
        _ => supervisor::refusal(failure),
    }
}
