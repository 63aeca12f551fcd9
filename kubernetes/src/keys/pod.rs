//! Pods, whatever makes them: the template, the pod, a container, a probe and a volume.
//!
//! The first of the two answers is for components, the second for images.

use wharf_compose::keys::Key;
use wharf_compose::keys::Kind::{Any, Bool, Int, List, Mode, Table, Text, TextTable, Texts, Word};
use wharf_compose::keys::Support;
use wharf_compose::keys::Support::{Refused, Translated};

const NO_ACCOUNTS: Support =
    Translated("an app has no account, and there is no API of a cluster that it could call with one");
const NO_HOSTNAME: Support = Translated("a guest has no hostname; others reach it by its app's name");
const ONE_PROCESS: Support = Refused(
    "an app is one program: let the entry point of the image do this first, or make a Job of it that is run before",
);
const NO_SHARING: Support = Refused("an instance shares nothing of its node's processes; leave it out");
const NO_CONTROL: Support =
    Refused("nothing but the platform decides when an instance is placed or ready; leave it out");
const NO_TERMINAL: Support =
    Refused("an instance has no terminal, and no input that stays open; leave it out");
const PRIORITY: Support = Translated(
    "priorities are `low`, `normal` and `high`; write `priority` below `placement` if it is to be another than `normal`",
);
const NO_WINDOWS: Support = Refused("it is about Windows, and workers run on Linux; leave it out");
const NO_DEVICES: Support = Refused("nodes count no devices; leave it out, and choose nodes by a label");
const NO_DRIVERS: Support =
    Refused("volumes are folders of nodes; let the nodes mount it, and name that folder as `hostPath`");
const SAME: Support = Translated("every node chooses alike; it is left out");
const MESSAGE: Support = Translated("what an instance prints is in its log, which `wharf logs` shows");
const GUARDED: Support = Translated("a guest reaches nothing that is not granted, with or without it");

pub(super) const TEMPLATE: &[Key] = &[
    Key::new("metadata", Table),
    Key::new("metadata.name", Text).both(Translated("instances are named by the platform")),
    Key::new("metadata.generateName", Text).both(Translated("instances are named by the platform")),
    Key::new("metadata.namespace", Text).both(Translated("instances are where their app is")),
    Key::new("metadata.labels", TextTable),
    Key::new("metadata.annotations", TextTable)
        .both(Translated("Wharf keeps no annotations; they are left out")),
    Key::new("metadata.creationTimestamp", Any)
        .both(Translated("a cluster wrote it, and no person; it is left out")),
    Key::new("spec", Table),
];

pub(super) const POD: &[Key] = &[
    Key::new("activeDeadlineSeconds", Int),
    Key::new("affinity", Table),
    Key::new("affinity.nodeAffinity", Table),
    Key::new("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution", Table),
    Key::new("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms", List),
    Key::new("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.*", Table),
    Key::new(
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.*.matchExpressions",
        List,
    ),
    Key::new(
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.*.matchExpressions.*",
        Any,
    ),
    Key::new(
        "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms.*.matchFields",
        List,
    )
    .both(Refused("write a `matchExpressions` of the label `kubernetes.io/hostname`")),
    Key::new("affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution", Any)
        .both(Translated("a node is required or not; wishes are left out")),
    Key::new("affinity.podAffinity", Table),
    Key::new("affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution", Any)
        .both(Refused("apps are not bound to each other; choose the nodes of both by a label")),
    Key::new("affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution", Any)
        .both(Translated("apps are not drawn to each other; wishes are left out")),
    Key::new("affinity.podAntiAffinity", Table),
    Key::new("affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution", List),
    Key::new("affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution.*", Any),
    Key::new("affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution", List),
    Key::new("affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution.*", Any),
    Key::new("automountServiceAccountToken", Bool).both(NO_ACCOUNTS),
    Key::new("containers", List),
    Key::new("containers.*", Table),
    Key::new("dnsConfig", Table).app(Translated("the platform resolves names for a guest")),
    Key::new("dnsConfig.nameservers", Texts),
    Key::new("dnsConfig.searches", Texts).container(Refused("a container has no search list; write names in full")),
    Key::new("dnsConfig.options", Any).container(Refused("a container has no options of its resolver; leave it out")),
    Key::new("dnsPolicy", Word(&["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"])),
    Key::new("enableServiceLinks", Bool)
        .both(Translated("no variables are made of Services; apps reach each other by their names")),
    Key::new("ephemeralContainers", Any).both(Refused("nothing joins an instance that runs; leave it out")),
    Key::new("hostAliases", List).app(Refused("the platform resolves names for a guest; grant the address instead")),
    Key::new("hostAliases.*", Table),
    Key::new("hostAliases.*.ip", Text),
    Key::new("hostAliases.*.hostnames", Texts),
    Key::new("hostIPC", Bool).both(NO_SHARING),
    Key::new("hostNetwork", Bool).app(Refused("a guest shares no network with its node; leave it out")),
    Key::new("hostPID", Bool).both(NO_SHARING),
    Key::new("hostUsers", Bool),
    Key::new("hostname", Text).app(NO_HOSTNAME),
    Key::new("hostnameOverride", Text).both(Refused("an instance has one hostname; write `hostname`")),
    Key::new("imagePullSecrets", Any)
        .both(Translated("the credentials of a registry are given to the platform, and not to an app")),
    Key::new("initContainers", Any).both(ONE_PROCESS),
    Key::new("nodeName", Text),
    Key::new("nodeSelector", TextTable),
    Key::new("os", Table),
    Key::new("os.name", Word(&["linux", "windows"])),
    Key::new("overhead", Any).both(Translated("an instance takes what it reserves, and nothing on top")),
    Key::new("preemptionPolicy", Text).both(PRIORITY),
    Key::new("priority", Int).both(PRIORITY),
    Key::new("priorityClassName", Text).both(PRIORITY),
    Key::new("readinessGates", Any).both(NO_CONTROL),
    Key::new("resourceClaims", Any).both(NO_DEVICES),
    Key::new("resources", Any).both(Refused("an app is one container; write the resources there")),
    Key::new("restartPolicy", Word(&["Always", "OnFailure", "Never"])),
    Key::new("runtimeClassName", Text),
    Key::new("schedulerName", Text).both(Translated("the platform has one planner")),
    Key::new("schedulingGates", Any).both(NO_CONTROL),
    Key::new("securityContext", Table).app(GUARDED),
    Key::new("securityContext.appArmorProfile", Table),
    Key::new("securityContext.appArmorProfile.type", Word(&["RuntimeDefault", "Localhost", "Unconfined"])),
    Key::new("securityContext.appArmorProfile.localhostProfile", Text),
    Key::new("securityContext.fsGroup", Int),
    Key::new("securityContext.fsGroupChangePolicy", Text)
        .container(Translated("nothing changes the owner of what is in a volume")),
    Key::new("securityContext.runAsGroup", Int),
    Key::new("securityContext.runAsNonRoot", Bool),
    Key::new("securityContext.runAsUser", Int),
    Key::new("securityContext.seLinuxChangePolicy", Text).container(Translated("nothing changes labels of files")),
    Key::new("securityContext.seLinuxOptions", Any).container(Refused("nodes label no processes; leave it out")),
    Key::new("securityContext.seccompProfile", Table),
    Key::new("securityContext.seccompProfile.type", Word(&["RuntimeDefault", "Localhost", "Unconfined"])),
    Key::new("securityContext.seccompProfile.localhostProfile", Text),
    Key::new("securityContext.supplementalGroups", Texts),
    Key::new("securityContext.supplementalGroupsPolicy", Text)
        .container(Translated("the groups of the image count as well")),
    Key::new("securityContext.sysctls", List),
    Key::new("securityContext.sysctls.*", Table),
    Key::new("securityContext.sysctls.*.name", Text),
    Key::new("securityContext.sysctls.*.value", Text),
    Key::new("securityContext.windowsOptions", Any).container(NO_WINDOWS),
    Key::new("serviceAccount", Text).both(NO_ACCOUNTS),
    Key::new("serviceAccountName", Text).both(NO_ACCOUNTS),
    Key::new("setHostnameAsFQDN", Bool).both(Translated("an instance has no longer name than its hostname")),
    Key::new("shareProcessNamespace", Bool).both(NO_SHARING),
    Key::new("subdomain", Text).both(Translated("instances have no names of their own; the app is reached by its names")),
    Key::new("terminationGracePeriodSeconds", Int),
    Key::new("tolerations", Any).both(Translated("nodes have no taints; what may run where is said by labels")),
    Key::new("topologySpreadConstraints", List),
    Key::new("topologySpreadConstraints.*", Table),
    Key::new("topologySpreadConstraints.*.labelSelector", Any),
    Key::new("topologySpreadConstraints.*.matchLabelKeys", Any).both(SAME),
    Key::new("topologySpreadConstraints.*.maxSkew", Int),
    Key::new("topologySpreadConstraints.*.minDomains", Int)
        .both(Refused("instances are spread over what is there; leave it out")),
    Key::new("topologySpreadConstraints.*.nodeAffinityPolicy", Text).both(SAME),
    Key::new("topologySpreadConstraints.*.nodeTaintsPolicy", Text).both(SAME),
    Key::new("topologySpreadConstraints.*.topologyKey", Text),
    Key::new("topologySpreadConstraints.*.whenUnsatisfiable", Word(&["DoNotSchedule", "ScheduleAnyway"])),
    Key::new("volumes", List),
    Key::new("volumes.*", Table),
    Key::new("workloadRef", Any).both(Refused("apps are placed one by one; leave it out")),
];

pub(super) const CONTAINER: &[Key] = &[
    Key::new("name", Text),
    Key::new("image", Text),
    Key::new("imagePullPolicy", Word(&["Always", "IfNotPresent", "Never"]))
        .both(Translated("what is applied is pinned to a digest, and a node fetches what it does not have")),
    Key::new("command", Texts).app(Refused("a component has one entry point; write its arguments as `args`")),
    Key::new("args", Texts),
    Key::new("workingDir", Text).app(Refused("a guest has no working folder; write paths from `/` on")),
    Key::new("env", List),
    Key::new("env.*", Table),
    Key::new("env.*.name", Text),
    Key::new("env.*.value", Text),
    Key::new("env.*.valueFrom", Table),
    Key::new("env.*.valueFrom.configMapKeyRef", Table),
    Key::new("env.*.valueFrom.configMapKeyRef.key", Text),
    Key::new("env.*.valueFrom.configMapKeyRef.name", Text),
    Key::new("env.*.valueFrom.configMapKeyRef.optional", Bool),
    Key::new("env.*.valueFrom.fieldRef", Table),
    Key::new("env.*.valueFrom.fieldRef.apiVersion", Text),
    Key::new("env.*.valueFrom.fieldRef.fieldPath", Text),
    Key::new("env.*.valueFrom.fileKeyRef", Any)
        .both(Refused("variables are not read from files; write the value")),
    Key::new("env.*.valueFrom.resourceFieldRef", Table),
    Key::new("env.*.valueFrom.resourceFieldRef.containerName", Text),
    Key::new("env.*.valueFrom.resourceFieldRef.divisor", Text),
    Key::new("env.*.valueFrom.resourceFieldRef.resource", Text),
    Key::new("env.*.valueFrom.secretKeyRef", Table),
    Key::new("env.*.valueFrom.secretKeyRef.key", Text),
    Key::new("env.*.valueFrom.secretKeyRef.name", Text),
    Key::new("env.*.valueFrom.secretKeyRef.optional", Bool),
    Key::new("envFrom", List),
    Key::new("envFrom.*", Table),
    Key::new("envFrom.*.prefix", Text),
    Key::new("envFrom.*.configMapRef", Table),
    Key::new("envFrom.*.configMapRef.name", Text),
    Key::new("envFrom.*.configMapRef.optional", Bool),
    Key::new("envFrom.*.secretRef", Table),
    Key::new("envFrom.*.secretRef.name", Text),
    Key::new("envFrom.*.secretRef.optional", Bool),
    Key::new("lifecycle", Table),
    Key::new("lifecycle.postStart", Any).both(ONE_PROCESS),
    Key::new("lifecycle.preStop", Table),
    Key::new("lifecycle.preStop.exec", Table),
    Key::new("lifecycle.preStop.exec.command", Texts),
    Key::new("lifecycle.preStop.httpGet", Any).both(Refused(
        "nothing is called before an instance is stopped; let it end on its signal, and leave it out",
    )),
    Key::new("lifecycle.preStop.tcpSocket", Any).both(Translated("it never had a meaning; it is left out")),
    Key::new("lifecycle.preStop.sleep", Any).both(Translated(
        "an instance is taken off its routes before it is stopped; there is nothing to wait for",
    )),
    Key::new("lifecycle.stopSignal", Text).app(Translated("a guest gets no signals")),
    Key::new("livenessProbe", Table),
    Key::new("readinessProbe", Table),
    Key::new("startupProbe", Table),
    Key::new("ports", List),
    Key::new("ports.*", Table),
    Key::new("ports.*.containerPort", Int),
    Key::new("ports.*.hostIP", Text)
        .both(Refused("public ports are at the addresses of the front door; leave it out")),
    Key::new("ports.*.hostPort", Int).both(Refused(
        "an instance takes no port of its node; publish it by a Service of the type `NodePort`",
    )),
    Key::new("ports.*.name", Text),
    Key::new("ports.*.protocol", Word(&["TCP", "UDP", "SCTP"])),
    Key::new("resizePolicy", Any).both(Translated("other resources are another release")),
    Key::new("resources", Table),
    Key::new("resources.claims", Any).both(NO_DEVICES),
    Key::new("resources.limits", TextTable),
    Key::new("resources.requests", TextTable),
    Key::new("restartPolicy", Any)
        .both(Refused("an app is one program, whose restarts the pod speaks of; leave it out")),
    Key::new("restartPolicyRules", Any)
        .both(Refused("an app is one program, whose restarts the pod speaks of; leave it out")),
    Key::new("securityContext", Table).app(GUARDED),
    Key::new("securityContext.allowPrivilegeEscalation", Bool),
    Key::new("securityContext.appArmorProfile", Table),
    Key::new("securityContext.appArmorProfile.type", Word(&["RuntimeDefault", "Localhost", "Unconfined"])),
    Key::new("securityContext.appArmorProfile.localhostProfile", Text),
    Key::new("securityContext.capabilities", Table),
    Key::new("securityContext.capabilities.add", Texts),
    Key::new("securityContext.capabilities.drop", Texts),
    Key::new("securityContext.privileged", Bool),
    Key::new("securityContext.procMount", Word(&["Default", "Unmasked"])),
    Key::new("securityContext.readOnlyRootFilesystem", Bool),
    Key::new("securityContext.runAsGroup", Int),
    Key::new("securityContext.runAsNonRoot", Bool),
    Key::new("securityContext.runAsUser", Int),
    Key::new("securityContext.seLinuxOptions", Any)
        .container(Refused("nodes label no processes; leave it out")),
    Key::new("securityContext.seccompProfile", Table),
    Key::new("securityContext.seccompProfile.type", Word(&["RuntimeDefault", "Localhost", "Unconfined"])),
    Key::new("securityContext.seccompProfile.localhostProfile", Text),
    Key::new("securityContext.windowsOptions", Any).container(NO_WINDOWS),
    Key::new("stdin", Bool).both(NO_TERMINAL),
    Key::new("stdinOnce", Bool).both(NO_TERMINAL),
    Key::new("terminationMessagePath", Text).both(MESSAGE),
    Key::new("terminationMessagePolicy", Text).both(MESSAGE),
    Key::new("tty", Bool).both(NO_TERMINAL),
    Key::new("volumeDevices", Any)
        .both(Refused("a volume is a folder, and no device; mount it by `volumeMounts`")),
    Key::new("volumeMounts", List),
    Key::new("volumeMounts.*", Table),
    Key::new("volumeMounts.*.mountPath", Text),
    Key::new("volumeMounts.*.mountPropagation", Word(&["None", "HostToContainer", "Bidirectional"])),
    Key::new("volumeMounts.*.name", Text),
    Key::new("volumeMounts.*.readOnly", Bool),
    Key::new("volumeMounts.*.recursiveReadOnly", Text)
        .both(Translated("nothing is mounted below what is mounted here")),
    Key::new("volumeMounts.*.subPath", Text),
    Key::new("volumeMounts.*.subPathExpr", Text).both(Refused("no path is made of variables; write it out")),
];

pub(super) const PROBE: &[Key] = &[
    Key::new("exec", Table).app(Refused("nothing runs beside a guest; let it answer `httpGet`")),
    Key::new("exec.command", Texts),
    Key::new("failureThreshold", Int),
    Key::new("grpc", Any).both(Refused("the platform asks over HTTP, or by a command; write one of these")),
    Key::new("httpGet", Table),
    Key::new("httpGet.host", Text)
        .both(Refused("an instance is asked itself, and nobody in its place; leave it out")),
    Key::new("httpGet.httpHeaders", List)
        .both(Refused("the platform asks without fields of yours; let the path answer without")),
    Key::new("httpGet.httpHeaders.*", Any),
    Key::new("httpGet.path", Text),
    Key::new("httpGet.port", Text),
    Key::new("httpGet.scheme", Word(&["HTTP", "HTTPS"])),
    Key::new("initialDelaySeconds", Int)
        .app(Translated("an instance is asked until it first answers, and failures do not count before")),
    Key::new("periodSeconds", Int),
    Key::new("successThreshold", Int),
    Key::new("tcpSocket", Table),
    Key::new("tcpSocket.host", Text)
        .both(Refused("an instance is asked itself, and nobody in its place; leave it out")),
    Key::new("tcpSocket.port", Text),
    Key::new("terminationGracePeriodSeconds", Int).both(Translated(
        "an instance that is replaced has the time of `terminationGracePeriodSeconds` of its pod",
    )),
    Key::new("timeoutSeconds", Int),
];

macro_rules! items {
    ($at:literal) => {
        [
            Key::new(concat!($at, ".items"), List),
            Key::new(concat!($at, ".items.*"), Table),
            Key::new(concat!($at, ".items.*.key"), Text),
            Key::new(concat!($at, ".items.*.mode"), Mode),
            Key::new(concat!($at, ".items.*.path"), Text),
            Key::new(concat!($at, ".optional"), Bool),
        ]
    };
}

const CONFIG_ITEMS: [Key; 6] = items!("configMap");
const SECRET_ITEMS: [Key; 6] = items!("secret");
const PROJECTED_CONFIG_ITEMS: [Key; 6] = items!("projected.sources.*.configMap");
const PROJECTED_SECRET_ITEMS: [Key; 6] = items!("projected.sources.*.secret");

pub(super) const VOLUME: &[Key] = &[
    Key::new("name", Text),
    Key::new("configMap", Table),
    Key::new("configMap.name", Text),
    Key::new("configMap.defaultMode", Mode),
    CONFIG_ITEMS[0],
    CONFIG_ITEMS[1],
    CONFIG_ITEMS[2],
    CONFIG_ITEMS[3],
    CONFIG_ITEMS[4],
    CONFIG_ITEMS[5],
    Key::new("emptyDir", Table).app(Refused("a guest has no temporary file system; give it a volume")),
    Key::new("emptyDir.medium", Text),
    Key::new("emptyDir.sizeLimit", Text),
    Key::new("hostPath", Table).app(Refused("a guest sees no folder of its node; give it a volume")),
    Key::new("hostPath.path", Text),
    Key::new("hostPath.type", Text),
    Key::new("persistentVolumeClaim", Table),
    Key::new("persistentVolumeClaim.claimName", Text),
    Key::new("persistentVolumeClaim.readOnly", Bool),
    Key::new("projected", Table),
    Key::new("projected.defaultMode", Mode),
    Key::new("projected.sources", List),
    Key::new("projected.sources.*", Table),
    Key::new("projected.sources.*.clusterTrustBundle", Any)
        .both(Refused("there is no API of a cluster here")),
    Key::new("projected.sources.*.configMap", Table),
    Key::new("projected.sources.*.configMap.name", Text),
    PROJECTED_CONFIG_ITEMS[0],
    PROJECTED_CONFIG_ITEMS[1],
    PROJECTED_CONFIG_ITEMS[2],
    PROJECTED_CONFIG_ITEMS[3],
    PROJECTED_CONFIG_ITEMS[4],
    PROJECTED_CONFIG_ITEMS[5],
    Key::new("projected.sources.*.downwardAPI", Any)
        .both(Refused("an instance has no files about itself; write what it needs as variables")),
    Key::new("projected.sources.*.podCertificate", Any).both(Refused("there is no API of a cluster here")),
    Key::new("projected.sources.*.secret", Table),
    Key::new("projected.sources.*.secret.name", Text),
    PROJECTED_SECRET_ITEMS[0],
    PROJECTED_SECRET_ITEMS[1],
    PROJECTED_SECRET_ITEMS[2],
    PROJECTED_SECRET_ITEMS[3],
    PROJECTED_SECRET_ITEMS[4],
    PROJECTED_SECRET_ITEMS[5],
    Key::new("projected.sources.*.serviceAccountToken", Any)
        .both(Refused("an app has no account, and there is no API of a cluster that it could call with one")),
    Key::new("secret", Table),
    Key::new("secret.secretName", Text),
    Key::new("secret.defaultMode", Mode),
    SECRET_ITEMS[0],
    SECRET_ITEMS[1],
    SECRET_ITEMS[2],
    SECRET_ITEMS[3],
    SECRET_ITEMS[4],
    SECRET_ITEMS[5],
    Key::new("downwardAPI", Any)
        .both(Refused("an instance has no files about itself; write what it needs as variables")),
    Key::new("ephemeral", Any).both(Refused("a volume outlives its instances; write a claim, or `emptyDir`")),
    Key::new("image", Any)
        .both(Refused("the files of another image are not mounted; copy them into this one")),
    Key::new("gitRepo", Any)
        .both(Refused("nothing is fetched before an app starts; put the files into the image")),
    Key::new("awsElasticBlockStore", Any).both(NO_DRIVERS),
    Key::new("azureDisk", Any).both(NO_DRIVERS),
    Key::new("azureFile", Any).both(NO_DRIVERS),
    Key::new("cephfs", Any).both(NO_DRIVERS),
    Key::new("cinder", Any).both(NO_DRIVERS),
    Key::new("csi", Any).both(NO_DRIVERS),
    Key::new("fc", Any).both(NO_DRIVERS),
    Key::new("flexVolume", Any).both(NO_DRIVERS),
    Key::new("flocker", Any).both(NO_DRIVERS),
    Key::new("gcePersistentDisk", Any).both(NO_DRIVERS),
    Key::new("glusterfs", Any).both(NO_DRIVERS),
    Key::new("iscsi", Any).both(NO_DRIVERS),
    Key::new("nfs", Any).both(NO_DRIVERS),
    Key::new("photonPersistentDisk", Any).both(NO_DRIVERS),
    Key::new("portworxVolume", Any).both(NO_DRIVERS),
    Key::new("quobyte", Any).both(NO_DRIVERS),
    Key::new("rbd", Any).both(NO_DRIVERS),
    Key::new("scaleIO", Any).both(NO_DRIVERS),
    Key::new("storageos", Any).both(NO_DRIVERS),
    Key::new("vsphereVolume", Any).both(NO_DRIVERS),
];
