//! Generates the services from `proto/*.proto`; needs `protoc`.

use std::fmt::Write;

use prost_build::{Method, Service, ServiceGenerator};

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure()
        .bytes(".")
        .build_transport(false)
        .compile_protos(&["proto/supervisor.proto"], &["proto"])?;
    prost_build::Config::new()
        .bytes(["."])
        .service_generator(Box::new(Ttrpc))
        .compile_protos(&["proto/agent.proto"], &["proto"])
}

/// A service as a trait to implement, a server of it and a client, over `crate::ttrpc`.
struct Ttrpc;

impl ServiceGenerator for Ttrpc {
    fn generate(&mut self, service: Service, code: &mut String) {
        write(&service, code).expect("a string takes everything");
    }
}

fn write(service: &Service, code: &mut String) -> std::fmt::Result {
    let name = &service.name;
    let full = format!("{}.{}", service.package, service.proto_name);
    let each =
        |line: &dyn Fn(&Method) -> String| -> String { service.methods.iter().map(line).collect() };

    let methods = each(&|method| {
        let (call, input, output) = (&method.name, &method.input_type, &method.output_type);
        format!(
            "fn {call}(&self, request: {input}) \
             -> impl Future<Output = Result<{output}, crate::ttrpc::Status>> + Send;\n"
        )
    });
    writeln!(
        code,
        "/// What a server of `{full}` does.\npub trait {name}: Send + Sync + 'static {{\n{methods}}}\n"
    )?;

    let arms = each(&|method| {
        format!(
            "{:?} => Ok(self.0.{}(Message::decode(payload)?).await?.encode_to_vec()),\n",
            method.proto_name, method.name
        )
    });
    writeln!(
        code,
        "/// Serves `{full}`.\npub struct {name}Server<T>(pub std::sync::Arc<T>);\n\n\
         impl<T: {name}> crate::ttrpc::Service for {name}Server<T> {{\n\
         const NAME: &'static str = {full:?};\n\n\
         async fn call(&self, method: &str, payload: prost::bytes::Bytes) -> Result<Vec<u8>, crate::ttrpc::Status> {{\n\
         use prost::Message;\n\
         match method {{\n{arms}_ => Err(crate::ttrpc::Status::no_method({full:?}, method)),\n}}\n}}\n}}\n"
    )?;

    let calls = each(&|method| {
        let (call, input, output) = (&method.name, &method.input_type, &method.output_type);
        format!(
            "pub async fn {call}(&self, request: {input}) -> Result<{output}, crate::ttrpc::Status> {{\n\
             self.0.call({full:?}, {:?}, &request).await\n}}\n",
            method.proto_name
        )
    });
    writeln!(
        code,
        "/// Calls `{full}`.\n#[derive(Debug, Clone)]\n\
         pub struct {name}Client(pub crate::ttrpc::Client);\n\nimpl {name}Client {{\n{calls}}}\n"
    )
}
