//! `gourd port`: where a container's ports can be reached.

use serde_json::Value;

use crate::app::App;
use crate::args::container::PortList;
use crate::failure::Failure;
use crate::render::out;

/// All of them, or the places of one, as Docker prints them.
pub async fn port(app: &App, args: &PortList) -> Result<u8, Failure> {
    let found = app.engine()?.inspect(&args.container).await?;
    let ports = &found["NetworkSettings"]["Ports"];
    let Some((port, protocol)) = args.port else {
        out::print(&all(ports))?;
        return Ok(0);
    };
    let wanted = format!("{port}/{protocol}");
    let lines: String = places(&ports[&wanted])
        .map(|place| format!("{place}\n"))
        .collect();
    if lines.is_empty() {
        let container = args.container.clone();
        return Err(Failure::NotPublished {
            port: wanted,
            container,
        });
    }
    out::print(&lines)?;
    Ok(0)
}

fn all(ports: &Value) -> String {
    let ports = ports.as_object().into_iter().flatten();
    ports
        .flat_map(|(port, bindings)| {
            places(bindings).map(move |place| format!("{port} -> {place}\n"))
        })
        .collect()
}

/// `0.0.0.0:8080`, `[::]:8080`.
fn places(bindings: &Value) -> impl Iterator<Item = String> {
    bindings.as_array().into_iter().flatten().map(|binding| {
        let text = |key: &str| binding[key].as_str().unwrap_or_default();
        let (address, port) = (text("HostIp"), text("HostPort"));
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Oracle: `docker port` of Docker 28.
    #[test]
    fn lines() {
        let ports = json!({
            "443/tcp": null,
            "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "5353"}],
            "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
        });
        let expect = "53/udp -> 127.0.0.1:5353\n80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n";
        assert_eq!(all(&ports), expect);
        assert_eq!(all(&json!({})), "");
    }
}
