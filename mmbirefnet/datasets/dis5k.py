"""DIS5K: highly accurate dichotomous image segmentation (Qin et al., 2022)."""

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
    """DIS5K, whose stems ``<group>#<Group>#<class>#<Class>#<name>`` tell the class in their fourth field.

    Args:
        data_root: Folder with ``DIS-TR``, … or with ``DIS5K/DIS-TR``, ….
        sets: Name or names of :attr:`SET_SIZES`, or of folders of the same form.
        class_names: Class names by label, for stems of the same form with other classes. Defaults to
            ``DIS5K_CLASSES``. A class that is not among them has the label -1.
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
            raise ValueError(f'{type(self).__name__}: class_names has a name twice')
        super().__init__(data_root=data_root, sets=sets, **kwargs)

    def class_name_of(self, stem: str) -> str | None:
        fields = stem.split('#')
        return fields[3] if len(fields) > 3 else None

    def class_label_of(self, class_name: str | None) -> int:
        return self._labels.get(class_name, -1)
