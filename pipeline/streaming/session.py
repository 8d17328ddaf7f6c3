"""The driver's JVM and its Spark session.

The JVM is started directly instead of through ``spark-submit``: that saves the launcher's own JVM
(about a second), keeps secrets off command lines, and ties the JVM's life to this process, so that
a driver that was killed leaves no writer behind.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import StreamingConfig
from pipeline.errors import ConfigError, QueryFailed

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

APPLICATION = "iot-streaming"
_JVM_START_SECONDS = 60.0
_TRUST_STORE = "trust.jks"

# What Spark's own launcher adds for Java 17 (org.apache.spark.launcher.JavaModuleOptions of the
# pinned version); a contract test holds the two equal.
JAVA_MODULE_OPTIONS = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    "--add-modules=jdk.incubator.vector",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.invoke=ALL-UNNAMED",
    "--add-opens=java.base/java.lang.reflect=ALL-UNNAMED",
    "--add-opens=java.base/java.io=ALL-UNNAMED",
    "--add-opens=java.base/java.net=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/java.util=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED",
    "--add-opens=java.base/java.util.concurrent.atomic=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.cs=ALL-UNNAMED",
    "--add-opens=java.base/sun.security.action=ALL-UNNAMED",
    "--add-opens=java.base/sun.util.calendar=ALL-UNNAMED",
    "--add-opens=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "-Djdk.reflect.useDirectMethodHandle=false",
    "-Dio.netty.tryReflectionSetAccessible=true",
    "-Dio.netty.allocator.type=pooled",
    "-Dio.netty.handler.ssl.defaultEndpointVerificationAlgorithm=NONE",
    "--enable-native-access=ALL-UNNAMED",
)


def spark_conf(config: StreamingConfig) -> dict[str, str]:
    """The Spark configuration of the job; what the inventory says in ``spark_conf`` wins.

    No secrets: they are set inside the JVM.
    """
    address = config.metrics.host
    conf = {
        "spark.app.name": APPLICATION,
        "spark.master": config.master,
        "spark.driver.host": address,
        "spark.driver.bindAddress": address,
        "spark.local.dir": str(config.local_dir),
        "spark.sql.warehouse.dir": str(config.local_dir / "warehouse"),
        "spark.executor.extraClassPath": f"{config.jars_dir}/*",
        "spark.sql.session.timeZone": "UTC",
        # The optimizing compiler and a parallel collector pay off after minutes; until then they
        # take from the first batches the very cores that these wait for (24 instead of 38 CPU
        # seconds to the end of the first batch, 650 instead of 930 MB). A large driver overrides it.
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        # Neither has a reader here, and both cost time at the start and for each batch.
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # A batch of seconds is a few thousand rows: more tasks are only more overhead.
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "1",
        "spark.sql.adaptive.enabled": "false",
        # Would write the list of all files again with each commit.
        "spark.databricks.delta.allFilesInCrc.enabled": "false",
        "spark.sql.streaming.checkpointFileManagerClass": (
            "org.apache.spark.internal.io.cloud.AbortableStreamBasedCheckpointFileManager"
        ),
        # The newer Kafka source of 4.1.1 fails after each batch that is run again (SPARK-55271, a
        # null in its metrics): each kill inside a batch would cost a second restart.
        "spark.sql.streaming.disabledV2MicroBatchReaders": ("org.apache.spark.sql.kafka010.KafkaSourceProvider"),
        "spark.sql.streaming.stopTimeout": "30s",
        "spark.sql.streaming.noDataProgressEventInterval": "5s",
        "spark.sql.debug.maxToStringFields": "100",
        "spark.sql.streaming.numRecentProgressUpdates": "5",
        # Options of the Kafka source hold the login.
        "spark.sql.redaction.options.regex": "(?i)url|jaas|password|secret",
        # Where blocks wait for their upload. An executor has folders of its own, perhaps on another machine, and Spark
        # tells it of them by the environment.
        "spark.hadoop.hadoop.tmp.dir": f"${{env.SPARK_EXECUTOR_DIRS:-{config.local_dir}}}/hadoop",
        "spark.hadoop.fs.s3a.endpoint": config.endpoints.s3.endpoint,
        "spark.hadoop.fs.s3a.endpoint.region": config.endpoints.s3.region,
        "spark.hadoop.fs.s3a.path.style.access": "true",
        "spark.hadoop.fs.s3a.connection.ssl.enabled": str(config.endpoints.s3.endpoint.startswith("https:")).lower(),
        "spark.hadoop.fs.s3a.aws.credentials.provider": ("org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider"),
    }
    if config.credentials.spark_secret is not None:
        conf |= {"spark.authenticate": "true", "spark.network.crypto.enabled": "true"}
    conf.update(config.spark_conf)
    return conf


def java_command(conf: Mapping[str, str], jars_dir: Path, local_dir: Path) -> list[str]:
    """The command line of the driver's JVM.

    :raises ConfigError: there is no Java.
    """
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None or not os.access(java, os.X_OK):
        raise ConfigError("java", java or "none on PATH", "Java 17", "install a JDK or set JAVA_HOME")
    command = [
        java,
        "-cp",
        f"{_spark_home() / 'jars'}/*:{jars_dir}/*",
        f"-Xmx{conf.get('spark.driver.memory', '1g')}",
        f"-Djava.io.tmpdir={local_dir}",
        f"-Dlog4j2.configurationFile={Path(__file__).parent / 'log4j2.properties'}",
        *JAVA_MODULE_OPTIONS,
        *conf.get("spark.driver.extraJavaOptions", "").split(),
        "org.apache.spark.deploy.SparkSubmit",
    ]
    for key, value in conf.items():
        command += ["--conf", f"{key}={value}"]
    return [*command, "pyspark-shell"]


def _spark_home() -> Path:
    # Without importing pyspark: that costs half a second, in which the JVM can start already.
    found = importlib.util.find_spec("pyspark")
    if found is None or found.origin is None:
        raise ConfigError("pyspark", "none installed", "the pinned package")
    return Path(found.origin).parent


def _trusting(store: str) -> dict[str, str]:
    """Java's own properties for what its TLS trusts, which is what S3A goes by."""
    return {"javax.net.ssl.trustStore": store, "javax.net.ssl.trustStoreType": "JKS"}


def write_trust_store(gateway: Any, ca_file: Path, store: Path) -> None:
    """Write certificates in the form that Java wants them in.

    In the oldest of its forms, which is read without a password: then none has to be kept from command lines,
    and there is no secret in it.

    :param gateway: py4j's, to the JVM.
    :param ca_file: certificates as PEM.
    """
    jvm = gateway.jvm
    made = jvm.java.security.KeyStore.getInstance("JKS")
    made.load(None, None)
    source = jvm.java.io.FileInputStream(str(ca_file))
    found = jvm.java.security.cert.CertificateFactory.getInstance("X.509").generateCertificates(source)
    source.close()
    for number, certificate in enumerate(found):
        made.setCertificateEntry(f"authority-{number}", certificate)
    target = jvm.java.io.FileOutputStream(str(store))
    made.store(target, gateway.new_array(jvm.char, 0))
    target.close()


def _remove_leftovers(local_dir: Path) -> None:
    """Remove what a driver that was killed left behind; only names that Spark and this module give."""
    for pattern in ("spark-*", "blockmgr-*", "gateway-*", "hadoop", "warm-up"):
        for path in local_dir.glob(pattern):
            if not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)


class Jvm:
    """The driver's JVM, which dies with this process.

    The constructor returns while the JVM is still starting. It must be called in the main thread:
    the kernel ends the child when the thread that made it ends. ``local_dir`` belongs to one driver
    alone: what an earlier one left there is removed.

    :param config: the job's configuration.
    :raises ConfigError: there is no Java, or the local folder cannot be made.
    """

    def __init__(self, config: StreamingConfig) -> None:
        self._config = config
        self._conf = spark_conf(config)
        try:
            config.local_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                "local_dir", f"{config.local_dir} ({error.strerror})", "a folder that can be made"
            ) from None
        _remove_leftovers(config.local_dir)
        self._exchange = Path(tempfile.mkdtemp(prefix="gateway-", dir=config.local_dir))
        environment = {
            **os.environ,
            "_PYSPARK_DRIVER_CONN_INFO_PATH": str(self._exchange / "connection"),
            "SPARK_CONNECT_MODE": "0",
            "SPARK_LOCAL_IP": config.metrics.host,
        }
        command = java_command(self._conf, config.jars_dir, config.local_dir)
        self._process = subprocess.Popen(
            # A driver that was killed must not leave a JVM that could still commit a batch.
            ["setpriv", "--pdeathsig", "KILL", *command],
            # The JVM also ends when this pipe closes.
            stdin=subprocess.PIPE,
            env=environment,
            # A signal to our group (Ctrl-C, a stop of the whole group) is for us to handle: the JVM
            # has to finish the batch first.
            process_group=0,
        )

    def session(self) -> SparkSession:
        """Connect to the JVM and make the Spark session in it.

        :raises QueryFailed: the JVM ended or did not answer.
        """
        port, secret = self._connection()
        # The way in which pyspark is told of a JVM that runs already.
        os.environ["PYSPARK_GATEWAY_PORT"] = str(port)
        os.environ["PYSPARK_GATEWAY_SECRET"] = secret
        from pyspark import SparkContext
        from pyspark.sql import SparkSession

        builder = SparkSession.builder
        SparkContext._ensure_initialized()  # noqa: SLF001 - what follows comes before any context
        for key, value in self._set_inside(SparkContext._gateway).items():  # noqa: SLF001
            builder = builder.config(key, value)
        session: SparkSession = builder.getOrCreate()
        context: Any = session.sparkContext
        hadoop = context._jsc.hadoopConfiguration()  # noqa: SLF001 - pyspark has no public way
        login = self._config.credentials.s3
        hadoop.set("fs.s3a.access.key", login.access_key.get_secret_value())
        hadoop.set("fs.s3a.secret.key", login.secret_key.get_secret_value())
        return session

    def stop(self) -> None:
        """End the JVM; nothing may be under way in it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._exchange, ignore_errors=True)

    def _set_inside(self, gateway: Any) -> dict[str, str]:
        """Have Java trust our authority, and return the configuration that may stand on no command line."""
        conf = {}
        secret = self._config.credentials.spark_secret
        if secret is not None:
            conf["spark.authenticate.secret"] = secret.get_secret_value()
        tls = self._config.endpoints.tls
        if tls is not None:
            store = self._exchange / _TRUST_STORE
            write_trust_store(gateway, tls.ca_file, store)
            for name, value in _trusting(str(store)).items():
                gateway.jvm.java.lang.System.setProperty(name, value)
            if not self._config.master.startswith("local"):
                # Executors get the file into the folder in which they are started.
                options = [f"-D{name}={value}" for name, value in _trusting(_TRUST_STORE).items()]
                conf["spark.executor.extraJavaOptions"] = " ".join(
                    [*self._conf.get("spark.executor.extraJavaOptions", "").split(), *options]
                )
                conf["spark.files"] = ",".join(filter(None, [self._conf.get("spark.files"), str(store)]))
        return conf

    def _connection(self) -> tuple[int, str]:
        path = self._exchange / "connection"
        deadline = time.monotonic() + _JVM_START_SECONDS
        # The file is complete when it appears: the JVM moves it into place.
        while not path.is_file():
            code = self._process.poll()
            if code is not None:
                raise QueryFailed("driver JVM", f"ended with code {code}", "a running JVM")
            if time.monotonic() > deadline:
                raise QueryFailed("driver JVM", f"silent for {_JVM_START_SECONDS:g} s", "a running JVM")
            time.sleep(0.05)
        # Two values as pyspark's serializers write them: a number, and a text after its length.
        with path.open("rb") as stream:
            port, length = struct.unpack("!ii", stream.read(8))
            return port, stream.read(length).decode()
