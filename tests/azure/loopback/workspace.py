"""The subscription, the workspace and its default datastore, as Azure describes them to clients."""

from __future__ import annotations

import uuid

from .messages import Json, Request, Response, answer
from .refusals import Refusal, now
from .routes import Route
from .tenancy import API, LOCATION, LOGIN, MANAGEMENT, MODELS, Tenancy

DATASTORES = "/datastore/v1.0<WS>"


class Workspace:
    """The one workspace.

    `forbidden` denies access to it; `datastore_type` is its datastore's type, which `has_keys`. A storage
    account that does not take keys refuses them even if the datastore still has them. The first image build
    creates the registry.
    """

    def __init__(self, tenancy: Tenancy) -> None:
        self.tenancy = tenancy
        self.forbidden = False
        self.datastore_type = "AzureBlob"
        self.has_keys = True
        self.takes_keys = True
        self.is_legacy = False
        self.has_registry = False

    def routes(self) -> list[Route]:
        return [
            Route("GET", MANAGEMENT, "/metadata/endpoints", self.clouds, needs_token=False),
            Route("GET", MANAGEMENT, "/subscriptions", self.subscriptions),
            Route("GET", MANAGEMENT, "<WS>", self.get),
            Route("GET", API, "/discovery", self.discovery, needs_token=False),
            Route("GET", API, f"{DATASTORES}/default", self.default_datastore),
        ]

    def clouds(self, _request: Request) -> Response:
        suffixes = {
            "storage": "core.windows.net",
            "keyVaultDns": "vault.azure.net",
            "acrLoginServer": "azurecr.io",
            "sqlServerHostname": "database.windows.net",
        }
        audience = [f"https://{MANAGEMENT}/", "https://management.core.windows.net/"]
        cloud: Json = {
            "name": "AzureCloud",
            "resourceManager": f"https://{MANAGEMENT}/",
            "authentication": {
                "loginEndpoint": f"https://{LOGIN}/",
                "audiences": audience,
                "tenant": "common",
                "identityProvider": "AAD",
            },
            "portal": "https://portal.azure.com",
            "graph": "https://graph.windows.net/",
            "graphAudience": "https://graph.windows.net/",
            "suffixes": suffixes,
        }
        return answer([cloud])

    def subscriptions(self, _request: Request) -> Response:
        have = self.tenancy
        row = {
            "id": f"/subscriptions/{have.subscription}",
            "subscriptionId": have.subscription,
            "tenantId": have.tenant,
            "displayName": "loopback",
            "state": "Enabled",
        }
        return answer({"value": [row]})

    def get(self, _request: Request) -> Response:
        have = self.tenancy
        if self.forbidden:
            text = f"The client '{have.client}' does not have authorization to read the workspace."
            raise Refusal(403, "AuthorizationFailed", text)
        document = {
            "id": have.workspace_path,
            "name": have.workspace,
            "type": "Microsoft.MachineLearningServices/workspaces",
            "location": LOCATION,
            "tags": {},
            "etag": None,
            "kind": "Default",
            "sku": {"name": "Basic", "tier": "Basic"},
            "identity": {"type": "SystemAssigned", "tenantId": have.tenant, "principalId": have.client},
            "systemData": system_data(have.client),
            "properties": self._properties(),
        }
        return answer(document)

    def _properties(self) -> Json:
        have = self.tenancy
        providers = f"/subscriptions/{have.subscription}/resourceGroups/{have.group}/providers"
        registry = f"{providers}/Microsoft.ContainerRegistry/registries/loopback"
        notebooks = {
            "resourceId": uuid.UUID(int=0).hex,
            "fqdn": f"ml-loopback-{LOCATION}.{LOCATION}.notebooks.azure.net",
            "isPrivateLinkEnabled": False,
            "notebookPreparationError": None,
        }
        return {
            "workspaceId": have.workspace_id,
            "friendlyName": have.workspace,
            "description": "",
            "storageAccount": f"{providers}/Microsoft.Storage/storageAccounts/{have.account}",
            "keyVault": f"{providers}/Microsoft.Keyvault/vaults/loopback",
            "applicationInsights": f"{providers}/Microsoft.insights/components/loopback",
            "containerRegistry": registry if self.has_registry else None,
            "imageBuildCompute": None,
            "notebookInfo": notebooks,
            "storageHnsEnabled": False,
            "linkedModelInventoryArmId": None,
            "privateLinkCount": 0,
            "discoveryUrl": f"https://{API}/discovery",
            "mlFlowTrackingUri": f"azureml://{API}/mlflow/v1.0{have.workspace_path}",
            "sdkTelemetryAppInsightsKey": str(uuid.UUID(int=0)),
            "sasGetterUri": "",
            "provisioningState": "Succeeded",
            "tenantId": have.tenant,
            "hbiWorkspace": False,
            "publicNetworkAccess": "Enabled",
            "v1LegacyMode": self.is_legacy,
            "softDeleteEnabled": False,
            "enableDataIsolation": False,
        }

    def discovery(self, _request: Request) -> Response:
        one_host = ("api", "history", "experimentation", "hyperdrive", "pipelines", "catalog", "inferencing")
        services = dict.fromkeys(one_host, f"https://{API}")
        return answer({**services, "modelmanagement": f"https://{MODELS}", "studio": "https://ml.azure.com"})

    def default_datastore(self, _request: Request) -> Response:
        return answer(self._datastore())

    def _datastore(self) -> Json:
        have = self.tenancy
        section = {
            "accountName": have.account,
            "containerName": have.container,
            "endpoint": "core.windows.net",
            "protocol": "https",
            "credentialType": "AccountKey" if self.has_keys else "None",
            "credential": have.account_key if self.has_keys else None,
            "accountKey": have.account_key if self.has_keys else None,
            "isSas": False,
            "areWorkspaceManagedIdentitiesAllowed": False,
            "subscriptionId": have.subscription,
            "resourceGroup": have.group,
        }
        return {
            "name": have.datastore,
            "dataStoreType": self.datastore_type,
            "hasBeenValidated": True,
            "tags": {},
            "azureStorageSection": section,
        }


def system_data(who: str) -> Json:
    """Return who created and changed a resource, and when."""
    facts: Json = {}
    for act in ("created", "lastModified"):
        facts |= {f"{act}At": now(), f"{act}By": who, f"{act}ByType": "Application"}
    return facts
