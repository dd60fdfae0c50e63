//! The Rust crate `oauth2`.

use std::time::Duration;

use hearthkey_tests::hub::Hub;
use hearthkey_tests::keyed::{JWT_BEARER, Keyed};
use oauth2::basic::{BasicClient, BasicErrorResponseType, BasicTokenResponse};
use oauth2::{
    AuthType, ClientId, ClientSecret, DeviceAuthorizationUrl, HttpRequest, HttpResponse, IntrospectionUrl, RequestTokenError,
    RevocationUrl, Scope, StandardDeviceAuthorizationResponse, StandardRevocableToken, TokenIntrospectionResponse as _,
    TokenResponse as _, TokenUrl,
};
use serde_json::json;

/// How the crate sends its requests: by a client that trusts the home CA.
async fn send(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, reqwest::Error> {
    let answer = http.execute(request.try_into()?).await?;
    let mut response = HttpResponse::new(Vec::new());
    *response.status_mut() = answer.status();
    response.headers_mut().clone_from(answer.headers());
    *response.body_mut() = answer.bytes().await?.to_vec();
    Ok(response)
}

fn token_url(hub: &Hub) -> TokenUrl {
    TokenUrl::new(hub.url("/oauth2/token")).expect("a URL")
}

#[tokio::test]
async fn a_secret_gets_a_token_by_either_method_and_a_guess_does_not() {
    let hub = Hub::start().await;
    let secret = hub.add_with_secret("plug", "tasmota").await;
    let http = hub.http();
    let send = |request| send(http.clone(), request);
    for method in [AuthType::BasicAuth, AuthType::RequestBody] {
        let client = |secret: &str| {
            BasicClient::new(ClientId::new("plug".to_owned()))
                .set_client_secret(ClientSecret::new(secret.to_owned()))
                .set_auth_type(method.clone())
                .set_token_uri(token_url(&hub))
        };
        let token: BasicTokenResponse =
            client(&secret).exchange_client_credentials().request_async(&send).await.expect("a token");
        hub.remember_secret(token.access_token().secret());
        assert_eq!(token.expires_in(), Some(Duration::from_secs(3_600)));
        let scopes: Vec<_> = token.scopes().expect("scopes").iter().map(|scope| scope.as_str()).collect();
        assert_eq!(scopes, ["commands", "telemetry"]);

        let guess = client("guess").exchange_client_credentials().request_async(&send).await;
        let Err(RequestTokenError::ServerResponse(refusal)) = guess else { panic!("{guess:?}") };
        assert_eq!(*refusal.error(), BasicErrorResponseType::InvalidClient);
        let client = client(&secret);
        let too_much =
            client.exchange_client_credentials().add_scope(Scope::new("everything".to_owned())).request_async(&send).await;
        let Err(RequestTokenError::ServerResponse(refusal)) = too_much else { panic!("{too_much:?}") };
        assert_eq!(*refusal.error(), BasicErrorResponseType::InvalidScope);
    }
    hub.finish().await;
}

#[tokio::test]
async fn an_assertion_gets_a_token_that_introspection_tells_and_revocation_ends() {
    let hub = Hub::start().await;
    let lamp = Keyed::enrolled(&hub, "lamp", "thermostat").await;
    let checker = hub.add_with_secret("checker", "service").await;
    let plug = hub.add_with_secret("plug", "tasmota").await;
    let http = hub.http();
    let send = |request| send(http.clone(), request);
    let client = BasicClient::new(ClientId::new("lamp".to_owned())).set_token_uri(token_url(&hub));
    let assertion = lamp.assertion(&hub);
    let request = client.exchange_client_credentials().add_extra_param("client_assertion_type", JWT_BEARER);
    let token = request.add_extra_param("client_assertion", assertion).request_async(&send).await.expect("a token");
    hub.remember_secret(token.access_token().secret());

    let by_secret = |id: &str, secret: &str| {
        BasicClient::new(ClientId::new(id.to_owned()))
            .set_client_secret(ClientSecret::new(secret.to_owned()))
            .set_token_uri(token_url(&hub))
            .set_introspection_url(IntrospectionUrl::new(hub.url("/oauth2/introspect")).expect("a URL"))
            .set_revocation_url(RevocationUrl::new(hub.url("/oauth2/revoke")).expect("a URL"))
    };
    let (checker, plug) = (by_secret("checker", &checker), by_secret("plug", &plug));
    let told = checker.introspect(token.access_token()).request_async(&send).await.expect("an answer");
    assert!(told.active());
    assert_eq!(told.client_id().map(|id| id.as_str()), Some("lamp"));
    assert!(plug.introspect(token.access_token()).request_async(&send).await.is_err(), "plug may not ask");

    let own: BasicTokenResponse = plug.exchange_client_credentials().request_async(&send).await.expect("a token");
    hub.remember_secret(own.access_token().secret());
    assert!(checker.introspect(own.access_token()).request_async(&send).await.expect("an answer").active());
    let ended = StandardRevocableToken::AccessToken(own.access_token().clone());
    plug.revoke_token(ended).expect("TLS").request_async(&send).await.expect("revoked");
    assert!(!checker.introspect(own.access_token()).request_async(&send).await.expect("an answer").active());
    assert!(checker.introspect(token.access_token()).request_async(&send).await.expect("an answer").active());
    hub.finish().await;
}

#[tokio::test]
async fn a_device_that_shows_a_code_joins_when_its_owner_says_so() {
    let hub = Hub::start().await;
    let http = hub.http();
    let send = |request| send(http.clone(), request);
    let client = BasicClient::new(ClientId::new("hearthkey-join".to_owned()))
        .set_auth_type(AuthType::RequestBody)
        .set_token_uri(token_url(&hub))
        .set_device_authorization_url(DeviceAuthorizationUrl::new(hub.url("/oauth2/device_authorization")).expect("a URL"));
    let lamp = Keyed::new("lamp");
    let jwk = lamp.jwk().to_string();
    let ask = async || {
        let request = client.exchange_device_code().add_extra_param("jwk", jwk.clone()).add_extra_param("software", "oauth2-rs");
        request.request_async(&send).await
    };
    let closed: Result<StandardDeviceAuthorizationResponse, _> = ask().await;
    let Err(RequestTokenError::ServerResponse(refusal)) = closed else { panic!("the window is not open: {closed:?}") };
    assert_eq!(refusal.error().to_string(), "access_denied");

    let api = async |path: &str, body: serde_json::Value| {
        let request = hub.http().post(hub.url(path)).bearer_auth(hub.owner_token()).json(&body);
        let answer = request.send().await.expect("an answer");
        assert!(answer.status().is_success(), "{path}: {:?}", answer.text().await);
    };
    api("/api/v1/join", json!({ "for_s": 180 })).await;
    let asked: StandardDeviceAuthorizationResponse = ask().await.expect("a code");
    let approved = format!("/api/v1/approvals/{}", asked.user_code().secret());
    api(&approved, json!({ "name": "lamp", "profile": "thermostat" })).await;
    let request = client.exchange_device_access_token(&asked);
    let token = request.request_async(&send, tokio::time::sleep, None).await.expect("a token");
    hub.remember_secret(token.access_token().secret());
    assert_eq!(hub.device("lamp").await["status"], "active");
    // From now on its key is enough.
    lamp.token(&hub).await;
    hub.finish().await;
}
