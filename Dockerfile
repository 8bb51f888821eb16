# One image for every node: MySQL, its hooks, and the pilot that runs them.
# BASE_IMAGE and CONSUL_IMAGE may name images made on the spot (containers/images.py).
ARG BASE_IMAGE=debian:sid-slim
ARG CONSUL_IMAGE=hashicorp/consul:1.22

FROM ${CONSUL_IMAGE} AS consul

FROM ${BASE_IMAGE}

# The -core packages on purpose: the full server package makes a data directory inside the image, and
# all containers would share its server_uuid. They bring no user either.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates mysql-client-core mysql-server-core python3 python3-venv tzdata \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && groupadd --system --gid 999 mysql \
    && useradd --system --uid 999 --gid mysql --home-dir /nonexistent --shell /usr/sbin/nologin mysql \
    && install -d -o mysql -g mysql -m 0750 /var/lib/mysql \
    && install -d -o mysql -g mysql -m 0755 /var/run/mysqld

COPY requirements.lock /opt/autopilot/
RUN python3 -m venv /opt/autopilot/venv \
    && /opt/autopilot/venv/bin/pip install --no-cache-dir --require-hashes --requirement /opt/autopilot/requirements.lock

COPY --from=consul /bin/consul /usr/local/bin/consul
COPY etc/ /opt/autopilot/etc/
COPY bin/ /opt/autopilot/bin/
# A hook starts every two seconds; without bytecode each start would compile again.
RUN python3 -m compileall -q /opt/autopilot/bin

ENV PATH=/opt/autopilot/venv/bin:/opt/autopilot/bin:$PATH \
    LANG=C.UTF-8 \
    RUN_DIR=/var/run/mysqld

VOLUME /var/lib/mysql
EXPOSE 3306
CMD ["python3", "/opt/autopilot/bin/pilot.py"]
