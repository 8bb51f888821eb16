#!/bin/sh
# Serves S3 on port 8333: the bucket AWS_BUCKET, and one pair of keys that may use nothing else.
set -eu

for name in AWS_BUCKET AWS_ACCESS_KEY AWS_SECRET_ACCESS_KEY; do
    eval "value=\${$name:-}"
    # shellcheck disable=SC2154  # assigned by eval
    case $value in
    '') echo "s3: $name is not set; give it in the env file" >&2 && exit 2 ;;
    *[!A-Za-z0-9/+=._-]*) echo "s3: $name may have only letters, digits and / + = . _ -" >&2 && exit 2 ;;
    esac
done

umask 077
cat >/etc/s3.json <<END
{"identities": [{"name": "backup",
  "credentials": [{"accessKey": "$AWS_ACCESS_KEY", "secretKey": "$AWS_SECRET_ACCESS_KEY"}],
  "actions": ["Read:$AWS_BUCKET", "Write:$AWS_BUCKET", "List:$AWS_BUCKET"]}]}
END

# Its parts know each other by the loopback address: the container's own may be another after a restart.
# Beside each port it listens on the port 10000 above, which must not be one that connections go out from.
exec /usr/bin/weed -logtostderr=true mini -dir=/data -ip=127.0.0.1 -ip.bind=0.0.0.0 \
    -s3.config=/etc/s3.json -bucket="$AWS_BUCKET" -s3.autoCreateBucket=false -s3.port=8333 -admin.port=8646 \
    -s3.port.iceberg=0 -s3.port.lance=0 -webdav=false -admin.ui=false -master.telemetry=false
