# One image for every node: MySQL, its hooks, and the pilot that runs them. docs/containers.md explains the arguments.
# BASE_IMAGE and CONSUL_IMAGE may name images made on the spot (containers/images.py).
ARG BASE_IMAGE=debian:sid-slim
ARG CONSUL_IMAGE=hashicorp/consul:1.22

FROM ${CONSUL_IMAGE} AS consul

# What the image takes only the results of.
FROM ${BASE_IMAGE} AS build

RUN apt-get update \
    && apt-get install -y --no-install-recommends binutils ca-certificates python3 python3-venv

# ContainerPilot, as its project released it last; an empty URL makes an image without it.
ARG CONTAINERPILOT_URL=https://github.com/joyent/containerpilot/releases/download/3.8.0/containerpilot-3.8.0.tar.gz
ARG CONTAINERPILOT_SHA1=84642c13683ddae6ccb63386e6160e8cb2439c26
RUN mkdir /pilot \
    && if [ -n "$CONTAINERPILOT_URL" ]; then \
        python3 -c 'import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])' \
            "$CONTAINERPILOT_URL" /pilot.tar.gz \
        && echo "$CONTAINERPILOT_SHA1  /pilot.tar.gz" | sha1sum --check --quiet - \
        && tar -C /pilot -xzf /pilot.tar.gz --no-same-owner containerpilot; \
    fi

COPY requirements.lock /
# The file is complete but for what is left out of it on purpose (LEFT_OUT in the Makefile).
RUN python3 -m venv /opt/autopilot/venv \
    && /opt/autopilot/venv/bin/pip install --no-cache-dir --require-hashes --no-deps --requirement /requirements.lock \
    && /opt/autopilot/venv/bin/pip uninstall --yes pip \
    && strip --strip-unneeded /opt/autopilot/venv/lib/python3*/site-packages/zstandard/*.so

COPY etc/ /opt/autopilot/etc/
COPY bin/ /opt/autopilot/bin/
# A hook starts every two seconds; without bytecode each start would compile again.
RUN python3 -m compileall -q /opt/autopilot/bin

FROM ${BASE_IMAGE}

ARG MYSQL_FLAVOR=mysql
COPY containers/install_mysql.sh /
RUN sh /install_mysql.sh "$MYSQL_FLAVOR" && rm /install_mysql.sh

COPY --from=consul /bin/consul /usr/local/bin/consul
COPY --from=build /pilot/ /usr/local/bin/
COPY --from=build /opt/autopilot/ /opt/autopilot/

ENV PATH=/opt/autopilot/venv/bin:/opt/autopilot/bin:$PATH \
    LANG=C.UTF-8 \
    RUN_DIR=/var/run/mysqld

ARG VERSION=unreleased
LABEL org.opencontainers.image.title="Autopilot MySQL" \
      org.opencontainers.image.description="MySQL that bootstraps, replicates, backs itself up and fails over by itself" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION"

VOLUME /var/lib/mysql
EXPOSE 3306 9090
# Docker only shows it: what restarts mysqld is the pilot, and what replaces a node are the other nodes.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["manage.py", "health", "--as", "alive"]
CMD ["pilot.py"]
