package main

import (
	"strconv"
	"time"

	"github.com/aws/aws-cdk-go/awscdk/v2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsec2"
	"github.com/aws/aws-cdk-go/awscdk/v2/awsrds"
	"github.com/aws/constructs-go/constructs/v10"
	"github.com/aws/jsii-runtime-go"
)

const (
	databaseName = "promises"
	databasePort = 5432

	// masterUser creates the roles of all functions. RDS chooses its password and
	// changes it every seven days. Only migrate may read it.
	masterUser = "postgres"
)

// postgres is the database: RDS for PostgreSQL, or Aurora Serverless v2. Only the proxy
// and migrate can reach it.
type postgres struct {
	target     awsrds.ProxyTarget
	group      awsec2.SecurityGroup
	host       *string
	resourceID *string // part of the ARNs of its users; a new database gets a new one
	secretARN  *string // the secret in which RDS keeps the master user's password
	metrics    databaseMetrics
	construct  constructs.Construct // its dependents are created once the database accepts connections
}

func newDatabase(parent constructs.Construct, s settings, n network) postgres {
	scope := constructs.NewConstruct(parent, jsii.String("Database"))
	group := newSecurityGroup(scope, "SecurityGroup", n.vpc, "Postgres")
	if s.Aurora {
		return newAurora(scope, s, n, group)
	}
	return newRDS(scope, s, n, group)
}

func newRDS(scope constructs.Construct, s settings, n network, group awsec2.SecurityGroup) postgres {
	class := awsec2.InstanceType_Of(awsec2.InstanceClass_T4G, awsec2.InstanceSize_MEDIUM)
	if s.Large {
		class = awsec2.InstanceType_Of(awsec2.InstanceClass_R7G, awsec2.InstanceSize_LARGE)
	}
	instance := awsrds.NewDatabaseInstance(scope, jsii.String("Instance"), &awsrds.DatabaseInstanceProps{
		Engine:                   awsrds.DatabaseInstanceEngine_Postgres(&awsrds.PostgresInstanceEngineProps{Version: awsrds.PostgresEngineVersion_VER_17()}),
		InstanceType:             class,
		DatabaseName:             jsii.String(databaseName),
		Credentials:              awsrds.Credentials_FromUsername(jsii.String(masterUser), nil),
		ManageMasterUserPassword: jsii.Bool(true),
		IamAuthentication:        jsii.Bool(true),
		Parameters:               parameters(s),
		CaCertificate:            awsrds.CaCertificate_RDS_CA_RSA2048_G1(),

		Vpc: n.vpc, VpcSubnets: n.subnets, SecurityGroups: &[]awsec2.ISecurityGroup{group},
		PubliclyAccessible: jsii.Bool(false),
		MultiAz:            jsii.Bool(s.Large),

		StorageType: awsrds.StorageType_GP3, StorageEncrypted: jsii.Bool(true),
		AllocatedStorage: jsii.Number(storageGiB(s)), MaxAllocatedStorage: jsii.Number(storageGiB(s) * 10),

		BackupRetention:         backupRetention(s),
		CopyTagsToSnapshot:      jsii.Bool(true),
		DeleteAutomatedBackups:  jsii.Bool(!s.guarded()),
		DeletionProtection:      jsii.Bool(s.guarded()),
		RemovalPolicy:           removal(s),
		AutoMinorVersionUpgrade: jsii.Bool(true),

		EnablePerformanceInsights:   jsii.Bool(true),
		PerformanceInsightRetention: awsrds.PerformanceInsightRetention_DEFAULT,
	})
	restoreSnapshot(instance, s, "DBSnapshotIdentifier", "DBName")
	return postgres{
		target: awsrds.ProxyTarget_FromInstance(instance), group: group,
		host: instance.DbInstanceEndpointAddress(), resourceID: instance.InstanceResourceId(),
		secretARN: instance.Secret().SecretArn(),
		metrics:   rdsMetrics(instance, s), construct: instance,
	}
}

func newAurora(scope constructs.Construct, s settings, n network, group awsec2.SecurityGroup) postgres {
	instance := &awsrds.ServerlessV2ClusterInstanceProps{
		PubliclyAccessible: jsii.Bool(false), AutoMinorVersionUpgrade: jsii.Bool(true),
		CaCertificate:             awsrds.CaCertificate_RDS_CA_RSA2048_G1(),
		EnablePerformanceInsights: jsii.Bool(true), PerformanceInsightRetention: awsrds.PerformanceInsightRetention_DEFAULT,
	}
	minimum, maximum := 0.5, 4.0
	var readers *[]awsrds.IClusterInstance
	if s.Large {
		minimum, maximum = 2, 32
		standby := *instance
		standby.ScaleWithWriter = jsii.Bool(true) // a standby of the writer's size can take over at once
		readers = &[]awsrds.IClusterInstance{awsrds.ClusterInstance_ServerlessV2(jsii.String("Standby"), &standby)}
	}
	cluster := awsrds.NewDatabaseCluster(scope, jsii.String("Cluster"), &awsrds.DatabaseClusterProps{
		Engine:                   awsrds.DatabaseClusterEngine_AuroraPostgres(&awsrds.AuroraPostgresClusterEngineProps{Version: awsrds.AuroraPostgresEngineVersion_VER_17_7()}),
		DefaultDatabaseName:      jsii.String(databaseName),
		Credentials:              awsrds.Credentials_FromUsername(jsii.String(masterUser), nil),
		ManageMasterUserPassword: jsii.Bool(true),
		IamAuthentication:        jsii.Bool(true),
		Parameters:               parameters(s),

		Vpc: n.vpc, VpcSubnets: n.subnets, SecurityGroups: &[]awsec2.ISecurityGroup{group},
		Writer: awsrds.ClusterInstance_ServerlessV2(jsii.String("Writer"), instance), Readers: readers,
		ServerlessV2MinCapacity: jsii.Number(minimum), ServerlessV2MaxCapacity: jsii.Number(maximum),

		StorageEncrypted:       jsii.Bool(true),
		Backup:                 &awsrds.BackupProps{Retention: backupRetention(s)},
		CopyTagsToSnapshot:     jsii.Bool(true),
		DeleteAutomatedBackups: jsii.Bool(!s.guarded()),
		DeletionProtection:     jsii.Bool(s.guarded()),
		RemovalPolicy:          removal(s),
	})
	restoreSnapshot(cluster, s, "SnapshotIdentifier", "DatabaseName")
	return postgres{
		target: awsrds.ProxyTarget_FromCluster(cluster), group: group,
		host: cluster.ClusterEndpoint().Hostname(), resourceID: cluster.ClusterResourceIdentifier(),
		secretARN: cluster.Secret().SecretArn(),
		metrics:   auroraMetrics(cluster), construct: cluster,
	}
}

// restoreSnapshot makes CloudFormation create the database from s.Snapshot, if that is
// set. The snapshot already contains the master user and the database, and
// CloudFormation rejects their names beside a snapshot.
func restoreSnapshot(database constructs.Construct, s settings, snapshot, name string) {
	if s.Snapshot == "" {
		return
	}
	resource := database.Node().DefaultChild().(awscdk.CfnResource)
	resource.AddPropertyOverride(jsii.String(snapshot), s.Snapshot)
	resource.AddPropertyDeletionOverride(jsii.String(name))
	resource.AddPropertyDeletionOverride(jsii.String("MasterUsername"))
}

// parameters returns the settings of Postgres. It keeps the arguments of statements out
// of the log, because they contain the callers' data.
func parameters(s settings) *map[string]*string {
	return &map[string]*string{
		"rds.force_ssl":                       jsii.String("1"),
		"max_connections":                     jsii.String(strconv.Itoa(maxConnections(s))),
		"idle_in_transaction_session_timeout": jsii.String("60000"),
		"log_parameter_max_length":            jsii.String("0"),
		"log_parameter_max_length_on_error":   jsii.String("0"),
	}
}

func storageGiB(s settings) int {
	if s.Large {
		return 400 // from 400 GiB up, gp3 has 12,000 IOPS
	}
	return 20
}

func backupRetention(s settings) awscdk.Duration {
	if s.guarded() {
		return awscdk.Duration_Days(jsii.Number(35)) // the maximum of RDS
	}
	return awscdk.Duration_Days(jsii.Number(1))
}

func removal(s settings) awscdk.RemovalPolicy {
	if s.guarded() {
		return awscdk.RemovalPolicy_RETAIN
	}
	return awscdk.RemovalPolicy_DESTROY
}

func rdsMetrics(instance awsrds.DatabaseInstance, s settings) databaseMetrics {
	five := 5 * time.Minute
	return databaseMetrics{
		cpu:          instance.MetricCPUUtilization(metricOptions("Average", five)),
		lowMetric:    instance.MetricFreeStorageSpace(metricOptions("Minimum", five)),
		lowThreshold: float64(storageGiB(s)) * 0.1 * (1 << 30), lowAlarm: "database-storage",
		highMetric: instance.Metric(jsii.String("DiskQueueDepth"), metricOptions("Average", five)), highThreshold: 64, highAlarm: "database-disk",
	}
}

func auroraMetrics(cluster awsrds.DatabaseCluster) databaseMetrics {
	five := 5 * time.Minute
	return databaseMetrics{
		cpu:        cluster.MetricCPUUtilization(metricOptions("Average", five)),
		highMetric: cluster.MetricACUUtilization(metricOptions("Average", five)), highThreshold: 90, highAlarm: "database-capacity",
	}
}
