"""Public data sets by family: folder, names of the sets, and number of images of each."""

from __future__ import annotations

from collections.abc import Sequence

from mmbirefnet.registry import DATASETS

from .dichotomous import DichotomousDataset

DIS5K_CLASSES = tuple(
    """
    Airplane Ant Antenna Archery Axe BabyCarriage Bag BalanceBeam Balcony Balloon Basket BasketballHoop Beatle Bed
    Bee Bench Bicycle BicycleFrame BicycleStand Boat Bonsai BoomLift Bridge BunkBed Butterfly Button Cable CableLift
    Cage Camcorder Cannon Canoe Car CarParkDropArm Carriage Cart Caterpillar CeilingLamp Centipede Chair Clip Clock
    Clothes CoatHanger Comb ConcretePumpTruck Crack Crane Cup DentalChair Desk DeskChair Diagram DishRack DoorHandle
    Dragonfish Dragonfly Drum Earphone Easel ElectricIron Excavator Eyeglasses Fan Fence Fencing FerrisWheel
    FireExtinguisher Fishing Flag FloorLamp Forklift GasStation Gate Gear Goal Golf GymEquipment Hammock Handcart
    Handcraft Handrail HangGlider Harp Harvester Headset Helicopter Helmet Hook HorizontalBar Hydrovalve
    IroningTable Jewelry Key KidsPlayground Kitchenware Kite Knife Ladder LaundryRack Lightning Lobster Locust
    Machine MachineGun MagazineRack Mantis Medal MemorialArchway Microphone Missile MobileHolder Monitor Mosquito
    Motorcycle MovingTrolley Mower MusicPlayer MusicStand ObservationTower Octopus OilWell OlympicLogo
    OperatingTable OutdoorFitnessEquipment Parachute Pavilion Piano Pipe PlowHarrow PoleVault Punchbag Rack Racket
    Rifle Ring Robot RockClimbing Rope Sailboat Satellite Scaffold Scale Scissor Scooter Sculpture Seadragon
    Seahorse Seal SewingMachine Ship Shoe ShoppingCart ShoppingTrolley Shower Shrimp Signboard Skateboarding
    Skeleton Skiing Spade SpeedBoat Spider Spoon Stair Stand Stationary SteeringWheel Stethoscope Stool Stove
    StreetLamp SweetStand Swing Sword TV Table TableChair TableLamp TableTennis Tank Tapeline Teapot Telescope Tent
    TobaccoPipe Toy Tractor TrafficLight TrafficSign Trampoline TransmissionTower Tree Tricycle TrimmerCover Tripod
    Trombone Truck Trumpet Tuba UAV Umbrella UnevenBars UtilityPole VacuumCleaner Violin Wakesurfing Watch
    WaterTower WateringPot Well WellLid Wheel Wheelchair WindTurbine Windmill WineGlass WireWhisk Yacht
    """.split()  # noqa: SIM905
)
"""Names of the 219 object classes of DIS-TR, sorted: the order of the auxiliary classifier's outputs."""


@DATASETS.register_module()
class DIS5KDataset(DichotomousDataset):
    """DIS5K (Qin et al., ECCV 2022).

    The stems are ``<group>#<Group>#<class>#<Class>#<name>``; the fourth field is the name of the class.

    Args:
        data_root: Folder with ``DIS-TR``, … or with ``DIS5K/DIS-TR``, ….
        sets: Name or names of :attr:`SET_SIZES`, or of other folders with such stems.
        class_names: Class names in the order of their labels, for other classes; ``DIS5K_CLASSES`` by default. Other
            classes have the label -1.
        **kwargs: See :class:`DichotomousDataset`.
    """

    FAMILY = 'DIS5K'
    SET_SIZES = {'DIS-TR': 3000, 'DIS-VD': 470, 'DIS-TE1': 500, 'DIS-TE2': 500, 'DIS-TE3': 500, 'DIS-TE4': 500}

    def __init__(
        self,
        data_root: str | None = None,
        sets: str | Sequence[str] | None = None,
        class_names: Sequence[str] = DIS5K_CLASSES,
        **kwargs,
    ) -> None:
        self._labels = {name: label for label, name in enumerate(class_names)}
        if len(self._labels) != len(class_names):
            raise ValueError(f'{type(self).__name__}: class_names contains a name twice')
        super().__init__(data_root=data_root, sets=sets, **kwargs)

    def class_name_of(self, stem: str) -> str | None:
        fields = stem.split('#')
        return fields[3] if len(fields) > 3 else None

    def class_label_of(self, class_name: str | None) -> int:
        return self._labels.get(class_name, -1)


@DATASETS.register_module()
class CODDataset(DichotomousDataset):
    """Camouflaged object detection; models train on ``TR-COD10K`` and ``TR-CAMO`` together."""

    FAMILY = 'COD'
    SET_SIZES = {'TR-COD10K': 3040, 'TR-CAMO': 1000, 'CHAMELEON': 76, 'NC4K': 4121, 'TE-CAMO': 250, 'TE-COD10K': 2026}


@DATASETS.register_module()
class HRSODDataset(DichotomousDataset):
    """Salient object detection; models train on any combination of ``TR-DUTS``, ``TR-HRSOD`` and ``TR-UHRSD``."""

    FAMILY = 'HRSOD'
    SET_SIZES = {
        'TR-DUTS': 10553,
        'TR-HRSOD': 1610,
        'TR-UHRSD': 4932,
        'DAVIS-S': 92,
        'TE-HRSOD': 400,
        'TE-UHRSD': 988,
        'DUT-OMRON': 5168,
        'TE-DUTS': 5019,
    }


@DATASETS.register_module()
class MattingDataset(DichotomousDataset):
    """Image matting: the masks are alpha mattes, which stay soft."""

    FAMILY = 'Matting'
    SET_SIZES = {
        'TR-P3M-10k': 9421,
        'TE-P3M-500-NP': 500,
        'TE-P3M-500-P': 500,
        'TR-AM-2k': 1800,
        'TE-AM-2k': 200,
        'AIM-500': 500,
        'PPM-100': 100,
    }


@DATASETS.register_module()
class GeneralDataset(DichotomousDataset):
    """General use: joins sets of DIS5K, HRSOD, matting and others, which may stay in the folders of their families."""

    FAMILY = 'General'
    OTHER_FAMILIES = ('DIS5K', 'HRSOD', 'Matting', 'COD')
    SET_SIZES = {**DIS5KDataset.SET_SIZES, **HRSODDataset.SET_SIZES, **MattingDataset.SET_SIZES}
