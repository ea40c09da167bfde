# syntax=docker/dockerfile:1

FROM rust:1-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends clang libclang-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/slackwater /slackwater

FROM debian:bookworm-slim
# The CA certificates are for HTTPS calls and for Cloud Spanner.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libstdc++6 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home slackwater \
    && install -d -o slackwater /var/lib/slackwater
COPY --from=build /slackwater /usr/local/bin/slackwater
COPY topology /etc/slackwater/topology

ENV SLACKWATER_STATE_DIR=/var/lib/slackwater \
    SLACKWATER_ADMIN=0.0.0.0:9464
USER slackwater
VOLUME /var/lib/slackwater
EXPOSE 9464
# The image has no curl: bash asks the admin port itself. Live, not ready: a restore or a broker that is down is no reason to be restarted.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${SLACKWATER_ADMIN##*:} && printf 'GET /live HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["slackwater"]
CMD ["run", "/etc/slackwater/topology/account-sync.yaml"]
